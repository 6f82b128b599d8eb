"""A device beside the CPU for machines without a GPU: tensors that refuse to meet those of the host.

Its numbers lie on the CPU, so everything is computed as there, but a tensor on it knows the device that it is on, and
what goes from one side to the other can be watched. PyTorch's name for the device is "meta".
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
_TELL = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim", "bincount"}
_MOVE = {"_to_copy", "copy_"}


class DeviceTensor(torch.Tensor):
    """A tensor on the second device; ``inner`` holds its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        like: dict[str, Any] = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=DEVICE, **like)
        made.inner = inner
        return made

    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert a tensor of the second device to numpy; copy it to the host first")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)  # as a file that is read with map_location='cpu'

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _Devices([]).__torch_dispatch__(func, types, args, kwargs)

    __torch_function__ = torch._C._disabled_torch_function_impl


class _Devices(TorchDispatchMode):
    """Runs every operator on the numbers, and notes in ``waits`` where the host and the device wait for each other."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        name, wanted = func._overloadpacket.__name__, kwargs.get("device")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = [isinstance(x, DeviceTensor) for x in tensors]
        to_device = wanted == DEVICE if wanted is not None else bool(tensors) and any(there)
        if name == "copy_":
            to_device = there[0]
        if name in _MOVE:
            if any(x != to_device for x in there):
                self._note(f"{func} between host and device")
        elif any(there):
            # A number in a tensor of the host may meet the device's, but a graph would keep it as it was.
            for x, far in zip(tensors, there, strict=True):
                if not far and x.ndim > 0:
                    raise RuntimeError(f"{func}: one tensor is on the device, another on the host")
                if not far:
                    self._note(f"{func} takes a number of the host")
            if name in _TELL or (name.startswith("index") and any(x.dtype == torch.bool for x in tensors[1:])):
                self._note(f"{func} waits")
        if wanted is not None:
            kwargs = {**kwargs, "device": torch.device("cpu") if wanted == DEVICE else wanted}
        inner_args, inner_kwargs = tree_map_only(DeviceTensor, lambda x: x.inner, (args, kwargs))
        with _no_inference_mode():
            out = func(*inner_args, **inner_kwargs)
            if to_device and name != "_local_scalar_dense":
                out = tree_map_only(torch.Tensor, DeviceTensor, out)
        if not to_device or name == "_local_scalar_dense":
            return out
        return return_and_correct_aliasing(func, args, kwargs, out) if any(there) else out

    def _note(self, what: str) -> None:
        ours = [
            f for f in traceback.extract_stack() if "/stylegan2_msp/" in f.filename or "torch_utils_ext" in f.filename
        ]
        where = [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(ours) if "/tests/" not in f.filename]
        self.waits.append(f"{what} ({' < '.join(where[:3])})")


@contextmanager
def _no_inference_mode() -> Iterator[None]:
    """Tensors of that mode and wrappers do not go together."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


class _Literals(TorchFunctionMode):
    """Numbers that are written down are copied to the device; PyTorch would make real meta tensors of them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


def _autocast(known: Any) -> Any:
    return lambda device, **options: known("cpu" if device == DEVICE.type else device, **options)


@contextmanager
def second_device() -> Iterator[list[str]]:
    """Within it `DEVICE` is a device with memory of its own; gives the list that fills with what waited."""
    waits: list[str] = []
    with ExitStack() as stack:
        on_host = {**vars(torch), "Generator": lambda device: torch.Generator("cpu")}
        stack.enter_context(patch("torch_utils_ext.rng.torch", SimpleNamespace(**on_host)))
        stack.enter_context(
            patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])
        )
        stack.enter_context(patch("torch.autocast", _autocast(torch.autocast)))
        stack.enter_context(_Literals())
        stack.enter_context(_Devices(waits))
        yield waits
