"""What a measurement was made on, and the two limits that nothing on it can beat: matrix peak and copy bandwidth."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

_MIN_SEC = 0.02  # a timed stretch is at least this long
_CPU_COPY_BYTES, _GPU_COPY_BYTES = 2**28, 2**30
_CPU_SIDES, _GPU_SIDES = (256, 1024, 2048), (4096, 8192)
_CPU_CONVOLUTION = 16, 128, 32  # images, channels, pixels of a side
_MOST_SEC = 1.0  # products that would take longer are left out: a type without instructions of its own is very slow


def describe() -> dict[str, Any]:
    """The machine and the software that a result belongs to, ready for JSON.

    Keys: cpu (model name), cores (physical), threads (hardware), torch_threads, ram_gib, os, python, torch, cuda (what
    torch was built for, or None), gpu (name, or None), gpu_count, capability ([major, minor], or None), driver (or
    None), commit (of this source tree, with '+' where files differ from it; None outside of a checkout).
    """
    gpu = torch.cuda.is_available()
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False),
        "threads": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "gpu_count": torch.cuda.device_count() if gpu else 0,
        "capability": list(torch.cuda.get_device_capability()) if gpu else None,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpu else None,
        "commit": _commit(),
    }


def matrix_peak(dtype: torch.dtype, device: torch.device | str) -> float:
    """FLOP/s of the fastest square matrix product found in `dtype`, under torch's present precision settings.

    On a CPU a 3x3 convolution counts, too: PyTorch's products come from another library (MKL), which leaves half of an
    AMD processor's float32 unused.
    """
    device = torch.device(device)
    best = 0.0
    for side in _GPU_SIDES if device.type == "cuda" else _CPU_SIDES:
        work = 2 * side**3
        if best and work / best > _MOST_SEC:
            break
        a = torch.randn([side, side], device=device).to(dtype)
        b = torch.randn([side, side], device=device).to(dtype)
        out = torch.empty_like(a)
        best = max(best, work / _fastest(_bound(torch.mm, a, b, out=out), device))
    n, channels, size = _CPU_CONVOLUTION
    work = 2 * 9 * n * channels**2 * size**2
    if device.type == "cpu" and work / best <= _MOST_SEC:
        x = torch.randn([n, channels, size, size]).to(dtype, memory_format=torch.channels_last)
        w = torch.randn([channels, channels, 3, 3]).to(dtype, memory_format=torch.channels_last)
        best = max(best, work / _fastest(_bound(torch.conv2d, x, w, padding=1), device))
    return best


def copy_bandwidth(device: torch.device | str) -> float:
    """Bytes per second of copying a large tensor within the device's memory, each byte counted read and written."""
    device = torch.device(device)
    size = _GPU_COPY_BYTES if device.type == "cuda" else _CPU_COPY_BYTES
    source = torch.ones([size // 4], device=device)
    target = torch.empty_like(source)
    return 2 * size / _fastest(_bound(target.copy_, source), device)


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _bound(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: function(*args, **kwargs)


def _fastest(work: Callable[[], Any], device: torch.device, rounds: int = 5) -> float:
    """Seconds of one call in the best of several stretches of calls."""
    work()
    calls, best = 1, float("inf")
    while rounds:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(device)
        taken = time.perf_counter() - start
        if taken < _MIN_SEC and calls < 1024:
            calls *= 2
            continue
        best = min(best, taken / calls)
        rounds -= 1
    return best


def _cpu_model() -> str:
    """Linux keeps the name in /proc; other systems tell it by themselves."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str | None:
    root = str(Path(__file__).resolve().parents[1])
    commit = _output("git", "-C", root, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if _output("git", "-C", root, "status", "--porcelain", "--untracked-files=no") else "")


def _output(*command: str) -> str | None:
    """First line that a program prints, '' if it prints none, None if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0]
