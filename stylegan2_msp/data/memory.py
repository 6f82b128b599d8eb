"""Memory for images: what is free, and one line where it does not suffice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

from stylegan2_msp.errors import UserError

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_memory() -> int:
    """Bytes of memory that this machine, or the container or a scheduler's job that this process runs in, has left.

    Files that a container or job keeps in memory and has not used lately are given up when memory is wanted: they are
    free.
    """
    free = int(psutil.virtual_memory().available)
    for group, (most, used, kept) in _groups():
        with suppress(OSError, ValueError):
            limit = int((group / most).read_text())
            left = limit - int((group / used).read_text()) + _kept_files(group / "memory.stat", kept)
            free = min(free, max(left, 0))
    return free


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Every control group around this process with the names of its files, of either version of Linux's interface.

    A container sees its own as the outermost one; a job of Slurm's runs some levels below the limited one.
    """
    yield CGROUP, _V2
    yield CGROUP / "memory", _V1
    lines: list[str] = []
    with suppress(OSError):
        lines = OWN_GROUPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        top, names = (CGROUP, _V2) if number == "0" else (CGROUP / "memory", _V1)
        if number == "0" or "memory" in controllers.split(","):
            group = top / path.lstrip("/")
            while group != top:
                yield group, names
                group = group.parent


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
