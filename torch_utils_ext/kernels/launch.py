"""Loads compiled kernels and launches them on torch's current stream."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

import torch

from torch_utils_ext import build
from torch_utils_ext.build import Defines, KernelsUnavailable

SCALARS = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}


@dataclass(eq=False)
class Launch:
    """One specialisation of a kernel with all that does not change between calls.

    Attributes:
        stem: source file ``csrc/<stem>.cu``.
        defines: macros of the specialisation.
        grid: blocks along x, y and z.
        block: threads of a block, likewise.
        args: the kernel's arguments after its pointers, each int a 64-bit integer, each float a double.
        ready: by device number, the loaded kernel and its launch configuration.
    """

    stem: str
    defines: Defines
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    args: tuple[int | float, ...]
    ready: dict[int, tuple[Any, Any]] = field(default_factory=dict, repr=False)


class _Thread(threading.local):
    """The devices that have been made current for cuda-core in this thread."""

    def __init__(self) -> None:
        self.devices: set[int] = set()


class _State:
    """What this process has loaded and found out."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.core: Any = None
        self.kernels: dict[tuple[str, Defines, int], Any] = {}
        self.streams: dict[tuple[int, int], Any] = {}
        self.thread = _Thread()
        self.tried = False
        self.problem: str | None = None


_state = _State()
_PROBE = Launch(
    "bias_act",
    (
        ("K_NAME", "bias_act"),
        ("K_SCALAR", "float"),
        ("K_ACT", "LINEAR"),
        ("K_ORDER", "0"),
        ("K_CLAMP", "0"),
        ("K_BIAS", "BIAS_NONE"),
        ("K_WIDE", "0"),
        ("K_VECTOR", "4"),
    ),
    (1, 1, 1),
    (1, 1, 1),
    (),
)


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """The format that a kernel reads `x` in: channels_last if it is that and not contiguous, otherwise contiguous."""
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def why_not() -> str | None:
    """See `torch_utils_ext.kernels.why_not`."""
    if not _state.tried:
        with _state.lock:
            if not _state.tried:
                _try()
    return _state.problem


def run(launch: Launch, device: torch.device, *pointers: int) -> None:
    """Launches on torch's current stream of `device`.

    Raises:
        KernelsUnavailable: the kernel cannot be built or loaded; said once, remembered from then on.
        RuntimeError: it is met for the first time while a CUDA graph is recorded, in which CUDA loads none; this says
            nothing about the next time.
    """
    index = device.index
    if index != torch.cuda.current_device():
        with torch.cuda.device(index):
            run(launch, device, *pointers)
        return
    ready = launch.ready.get(index)
    if ready is None or index not in _state.thread.devices:
        ready = _prepare(launch, index)
    kernel, config = ready
    handle = torch.cuda.current_stream(index).cuda_stream
    stream = _state.streams.get((index, handle))
    if stream is None:
        stream = _state.streams[index, handle] = _state.core.Stream.from_handle(handle)
    _state.core.launch(stream, config, kernel, *pointers, *launch.args)


def _try() -> None:
    """Finds out whether kernels can be built and loaded here; where there is a GPU and they cannot, says so."""
    try:
        if not torch.cuda.is_available():
            _state.problem = "torch finds no CUDA GPU; the plain PyTorch operators are used"
        elif torch.version.hip is not None:
            _state.problem = "the kernels are for NVIDIA GPUs; the plain PyTorch operators are used"
        else:
            _prepare(_PROBE, torch.cuda.current_device())
    except KernelsUnavailable:
        pass
    _state.tried = True


def _prepare(launch: Launch, index: int) -> tuple[Any, Any]:
    """Loads the kernel for a device and makes the device current for cuda-core in this thread."""
    with _state.lock:
        if _state.problem is not None:
            raise KernelsUnavailable(_state.problem)
        try:
            return _load(launch, index)
        except Exception as error:  # cuda-core's are in a private module, and may be of any kind
            if torch.cuda.is_current_stream_capturing():
                raise RuntimeError(
                    f"a CUDA kernel cannot be loaded while a CUDA graph is recorded ({error}); do once without "
                    "recording what is to be recorded"
                ) from error
            why = (
                error if isinstance(error, KernelsUnavailable) else f"cuda-core fails ({error or type(error).__name__})"
            )
            _state.problem = f"{why}; the plain PyTorch operators are used"
            logging.getLogger("torch_utils_ext").warning("CUDA kernels: %s", _state.problem)
            raise KernelsUnavailable(_state.problem) from error


def _load(launch: Launch, index: int) -> tuple[Any, Any]:
    if _state.core is None:
        _state.core = build.cuda_core()
    core = _state.core
    if index not in _state.thread.devices:
        core.Device(index).set_current()
        _state.thread.devices.add(index)
    if index in launch.ready:
        return launch.ready[index]
    key = (launch.stem, launch.defines, index)
    if key not in _state.kernels:
        major, minor = torch.cuda.get_device_capability(index)
        architecture = build.target(10 * major + minor, build.nvrtc()[1])
        code = build.machine_code(launch.stem, launch.defines, architecture)
        name = dict(launch.defines)["K_NAME"]
        try:
            make = core.ObjectCode.from_cubin if architecture.startswith("sm_") else core.ObjectCode.from_ptx
            _state.kernels[key] = make(code).get_kernel(name)
        except Exception as error:  # CUDAError lives in a private module of cuda-core
            raise KernelsUnavailable(
                f"the driver refuses the kernel {name} for {architecture} ({error}); update the NVIDIA driver"
            ) from error
    config = core.LaunchConfig(grid=launch.grid, block=launch.block)
    launch.ready[index] = _state.kernels[key], config
    return launch.ready[index]
