"""Where to compute."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from stylegan2_msp.errors import UserError


def pick_device(name: torch.device | str = "auto") -> torch.device:
    """The device that a name stands for; 'auto' is the first GPU, or the CPU where there is none.

    Raises:
        UserError: this machine cannot use it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, dtype=torch.float64, device=device)  # which measures need, and mps lacks
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise UserError(f"--device {name}: this machine's PyTorch cannot use it; try --device cpu") from None
    return device


def cores() -> int:
    """How many processors this process may use: a scheduler (Slurm, `taskset`) may leave it few of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Tells glibc's allocator (Linux) to keep what this process frees, instead of returning it to the system.

    By default every block of some megabytes is unmapped when freed and faulted in again, page by page, when the next
    layer asks for one: 4 to 9 % of a training step's time on a CPU.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD in malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
