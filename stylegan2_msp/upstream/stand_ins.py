"""Names that a checkout's modules see in place of torch, PIL, numpy and scipy where those have moved on."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy
import numpy as np
import PIL.Image
import scipy
import scipy.linalg
import torch


class StandIn(types.ModuleType):
    """A module like another one, but for the names that are given."""

    def __init__(self, real: types.ModuleType, **changed: Any) -> None:
        super().__init__(real.__name__)
        self.__dict__["_real"] = real
        self.__dict__.update(changed)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.__dict__["_real"], attribute)


def available_device(*args: Any) -> torch.device:
    """`torch.device`, but the CPU where CUDA is asked for."""
    device = torch.device(*args)
    return torch.device("cpu") if device.type == "cuda" else device


def torch_here() -> types.ModuleType:
    """torch; on a machine without a GPU one whose CUDA devices are the CPU."""
    if torch.cuda.is_available():
        return torch
    setattr(torch.Tensor, "pin_memory", _as_it_is)  # noqa: B010 (torch's own needs an accelerator)
    return StandIn(torch, device=available_device)


def _as_it_is(self: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return self


def image_from_array(array: np.ndarray, mode: str | None = None) -> PIL.Image.Image:
    """`PIL.Image.fromarray` that takes its mode from the array, uint8 [H, W], [H, W, 1] or [H, W, 3]."""
    if mode not in (None, "L", "RGB"):
        return PIL.Image.fromarray(array, mode)
    return PIL.Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def percentile(a: Any, q: Any, *args: Any, interpolation: str = "linear", **kwargs: Any) -> Any:
    """`numpy.percentile` with the argument that is called ``method`` since numpy 1.22."""
    return numpy.percentile(a, q, *args, **{"method": interpolation, **kwargs})


def sqrtm(a: np.ndarray, disp: bool = True) -> Any:
    """`scipy.linalg.sqrtm`; without ``disp`` also the relative error of the root, as scipy gave it before 1.18."""
    root = scipy.linalg.sqrtm(a)
    return root if disp else (root, np.linalg.norm(root @ root - a) / max(float(np.linalg.norm(a)), 1e-300))


def cdist_any(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`torch.cdist`, which has no float16 on CPUs: there float32 between them."""
    if a.dtype == torch.float16 and a.device.type == "cpu":
        return torch.cdist(a.float(), b.float()).to(a.dtype)
    return torch.cdist(a, b)


def data_parallel(module: torch.nn.Module, **kwargs: Any) -> torch.nn.Module:
    """`DistributedDataParallel` of a module whose buffers are those of the first process.

    Without ``broadcast_buffers`` torch 2 leaves them alone, also at the start: noise maps then differ from process to
    process, and the loop's own check of consistency ends the run.
    """
    for buffer in module.buffers():
        torch.distributed.broadcast(buffer, src=0)
    return torch.nn.parallel.DistributedDataParallel(module, **kwargs)


def with_parallel(wrap: Callable[..., torch.nn.Module], **changed: Any) -> types.ModuleType:
    """torch with another `nn.parallel.DistributedDataParallel`, and whatever else is given."""
    return StandIn(
        torch, nn=StandIn(torch.nn, parallel=StandIn(torch.nn.parallel, DistributedDataParallel=wrap)), **changed
    )


PIL_HERE = StandIn(PIL, Image=StandIn(PIL.Image, fromarray=image_from_array))
NUMPY_HERE = StandIn(numpy, percentile=percentile)
SCIPY_HERE = StandIn(scipy, linalg=StandIn(scipy.linalg, sqrtm=sqrtm))
