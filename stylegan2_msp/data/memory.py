"""Memory for images: what is free, and one line where it does not suffice."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from stylegan2_msp.errors import UserError

CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def free_memory() -> int:
    """Bytes of memory that this machine, or the container that this process runs in, has left.

    Files that the container keeps in memory and has not used lately are given up when memory is wanted: they are free.
    """
    free = int(psutil.virtual_memory().available)
    for most, used, stat, name in _LIMITS:
        with suppress(OSError, ValueError):
            limit = int((CGROUP / most).read_text())
            left = limit - int((CGROUP / used).read_text()) + _kept_files(CGROUP / stat, name)
            free = min(free, max(left, 0))
    return free


def room(size: tuple[int, ...], where: str) -> np.ndarray:
    """Memory for uint8 images of this size, not yet set.

    Raises:
        UserError: there is not so much.
    """
    needed, free = math.prod(size), free_memory()
    if needed > free:
        found = f"its images need {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free"
        raise UserError(f"{where}: {found}; make a smaller archive with --max-images or --resolution")
    return np.empty(size, dtype=np.uint8)


def _kept_files(stat: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        return next(int(line.split()[1]) for line in stat.read_text().splitlines() if line.split()[:1] == [name])
    return 0
