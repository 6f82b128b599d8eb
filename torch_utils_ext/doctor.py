"""Finds out what the operators run on, and tests each against its slow reference, gradients included."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from torch_utils_ext import build, kernels
from torch_utils_ext.machine import copy_bandwidth, describe, matrix_peak
from torch_utils_ext.ops.activations import activation_funcs
from torch_utils_ext.ops.bias_act import bias_act
from torch_utils_ext.ops.conv2d import conv2d
from torch_utils_ext.ops.conv2d_resample import conv2d_resample
from torch_utils_ext.ops.grid_sample import grid_sample
from torch_utils_ext.ops.modulated_conv2d import modulated_conv2d
from torch_utils_ext.ops.upfirdn2d import setup_filter, upfirdn2d

# Calls an operator: impl and tensors in, its result out.
Call = Callable[..., torch.Tensor]

# Largest error against the reference in float64, as a share of the reference's largest value.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}

WITH_KERNEL = ("bias_act", "upfirdn2d")


@dataclass(frozen=True)
class Check:
    """One operator on one device in one dtype.

    Attributes:
        operator: its name.
        device: 'cpu' or 'cuda'.
        dtype: of its tensors.
        errors: of the value, the first and the second gradient, each a share of the reference's largest value.
        problem: what went wrong when it did not even run.
    """

    operator: str
    device: str
    dtype: torch.dtype
    errors: tuple[float, float, float] | None
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether all three errors (NaN counts as one) are within `TOLERANCE`."""
        return self.errors is not None and all(error <= TOLERANCE[self.dtype] for error in self.errors)


def findings() -> dict[str, str]:
    """What is installed and found, as a table of names and words."""
    machine = describe()
    gpu = "none that torch can use"
    if machine["gpu"]:
        gpu = f"{machine['gpu_count']} x {machine['gpu']}, compute capability {machine['capability'][0]}"
        gpu += f".{machine['capability'][1]}, driver {machine['driver'] or 'unknown'}"
    why_not = kernels.why_not()
    return {
        "python": f"{machine['python']} on {machine['os']}",
        "processor": f"{machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB",
        "torch": f"{machine['torch']}, {machine['torch_threads']} threads",
        "CUDA of torch": machine["cuda"] or "none: this is a build for the CPU",
        "GPU": gpu,
        "cuda-core": _version("cuda-core") or "not installed",
        "NVRTC": _nvrtc(),
        "compilers": ", ".join(filter(None, map(shutil.which, ("nvcc", "c++", "cl")))) or "none (none is needed)",
        "CUDA kernels": f"ready, kept in {build.cache_folder()}" if why_not is None else why_not,
    }


def operators() -> list[str]:
    """Names of the operators that are tested."""
    return list(_cases())


def implementation(operator: str, device: str) -> tuple[str, str]:
    """Which implementation 'auto' takes there outside of tracing, and why."""
    if operator not in WITH_KERNEL:
        return "PyTorch's own kernels", "they serve it well; what is added are gradients of every order"
    if device == "cpu":
        return "plain PyTorch", "the quickest on a CPU"
    why_not = kernels.why_not()
    return ("our CUDA kernel", "it is built and loaded") if why_not is None else ("plain PyTorch", why_not)


def self_test(device: str) -> Iterator[Check]:
    """Compares every operator with its reference; on a GPU also in half precision, as training uses it."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16) if device == "cuda" else (torch.float32,)
    for operator, (shapes, calls) in _cases().items():
        for dtype in dtypes:
            try:
                found = torch.tensor([_errors(call, shapes, device, dtype) for call in calls])
                value, first, second = found.amax(dim=0).tolist()  # NaN stays NaN
                yield Check(operator, device, dtype, (value, first, second))
            except Exception as error:  # whatever it is, the other operators are still to be tested
                line = (str(error).splitlines() or [""])[0]
                yield Check(operator, device, dtype, None, f"{type(error).__name__}: {line}")


def limits(device: str) -> dict[str, str]:
    """What nothing on that device can beat, measured now."""
    found = {"copy bandwidth (read + written)": f"{copy_bandwidth(device) / 1e9:,.0f} GB/s"}
    for dtype in (torch.float32, torch.bfloat16):
        found[f"products and convolutions, {str(dtype).removeprefix('torch.')}"] = (
            f"{matrix_peak(dtype, device) / 1e9:,.0f} GFLOP/s"
        )
    return found


def _cases() -> dict[str, tuple[list[list[int]], list[Call]]]:
    """By operator: shapes of the tensors, and calls with different settings."""
    image, weight = [2, 4, 8, 8], [4, 4, 3, 3]
    f, long = setup_filter([1, 3, 3, 1]), setup_filter([1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1])
    return {
        "bias_act": ([image, [4]], [_activated(act) for act in activation_funcs]),
        "upfirdn2d": ([image], [_resized(taps, up, down) for taps in (f, long) for up, down in _FACTORS]),
        "grid_sample": ([image], [_sampled]),
        "conv2d": ([image, weight], [_convolved]),
        "conv2d_resample": ([image, weight], [_resampled(f, up, down) for up, down in _FACTORS]),
        "modulated_conv2d": ([image, weight, [2, 4]], [_modulated(fused) for fused in (False, True)]),
    }


_FACTORS = [(1, 1), (2, 1), (1, 2)]


def _activated(act: str) -> Call:
    return lambda impl, x, b: bias_act(x, b, act=act, clamp=1, impl=impl)


def _resized(f: torch.Tensor, up: int, down: int) -> Call:
    around = [f.shape[0] // 2, f.shape[0] // 2 - 1] * 2
    return lambda impl, x: upfirdn2d(x, f.to(x.device), up=up, down=down, padding=around, gain=up**2, impl=impl)


def _sampled(impl: str, x: torch.Tensor) -> torch.Tensor:
    grid = torch.rand([2, 6, 5, 2], generator=torch.Generator().manual_seed(1)) * 2.4 - 1.2
    return grid_sample(x, grid.to(x.device), impl=impl)


def _convolved(impl: str, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, w, padding=1) if impl == "ref" else conv2d(x, w, padding=(1, 1))


def _resampled(f: torch.Tensor, up: int, down: int) -> Call:
    return lambda impl, x, w: conv2d_resample(x, w, f.to(x.device), up=up, down=down, padding=1, impl=impl)


def _modulated(fused: bool) -> Call:
    def call(impl: str, x: torch.Tensor, w: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
        if impl != "ref":
            return modulated_conv2d(x, w, styles, padding=1, fused_modconv=fused)
        own = w * styles[:, None, :, None, None]
        own = own / (own.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
        return torch.cat([F.conv2d(x[i : i + 1], own[i], padding=1) for i in range(len(x))])

    return call


def _errors(call: Call, shapes: list[list[int]], device: str, dtype: torch.dtype) -> list[float]:
    """Of the value, first and second gradients, against the reference in float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(-12, 12, shape, generator=generator) / 8 for shape in shapes]
    # Still exact in every dtype, but off the places where an activation or a clamp has a kink.
    inputs[0] += 1 / 16
    expected = _derivatives(call, "ref", [t.double() for t in inputs])
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = _derivatives(call, "auto", [t.to(device, dtype) for t in inputs])
    return [_worst(ours, theirs) for ours, theirs in zip(found, expected, strict=True)]


def _worst(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Largest difference as a share of the largest value; NaN if anything is."""
    pairs = zip(found, expected, strict=True)
    return float(torch.stack([(a.cpu().double() - e).abs().max() / (e.abs().max() + 1e-12) for a, e in pairs]).amax())


def _derivatives(call: Call, impl: str, inputs: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """The value; gradients of a function of it; gradients of the squared gradient of the first input."""
    inputs = [t.requires_grad_() for t in inputs]
    y = call(impl, *inputs)
    first = torch.autograd.grad(y.double().sin().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(first[0].double().square().sum(), inputs)
    return [[each.detach() for each in group] for group in ([y], first, second)]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvrtc() -> str:
    try:
        version, architectures = build.nvrtc()
    except build.KernelsUnavailable as error:
        return str(error)
    return f"{version}, for compute capability {architectures[0] / 10} to {architectures[-1] / 10}"
