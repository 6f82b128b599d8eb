"""Where a run keeps its images: on the device, in memory that the machine's processes share, or in the archive."""

from __future__ import annotations

import math
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from stylegan2_msp.data.archive import Archive
from stylegan2_msp.data.lazy import LazyImages
from stylegan2_msp.data.memory import free_memory
from stylegan2_msp.errors import UserError

HOST_SHARE = 0.5  # of the memory that is free on the machine
DEVICE_SHARE = 0.25  # of a GPU's


class Group(Protocol):
    """The processes of a run, as far as keeping images concerns them; `training.distributed.World` is one."""

    @property
    def rank(self) -> int:
        """Place among all processes."""

    @property
    def local_rank(self) -> int:
        """Place among those of this machine, whose ranks follow each other."""

    @property
    def local_size(self) -> int:
        """How many this machine has."""

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank; all processes must call it."""


@dataclass(frozen=True)
class Alone:
    """One process by itself."""

    rank: int = 0
    local_rank: int = 0
    local_size: int = 1

    def gather(self, value: Any) -> list[Any]:
        """The value."""
        return [value]


def store_images(
    archive: Archive, index: np.ndarray, device: torch.device, workers: int, group: Group
) -> torch.Tensor | LazyImages:
    """The archive's images at ``index``, where they fit.

    Decoded, they go to the GPU when they take at most `DEVICE_SHARE` of what is free there, and into memory when they
    take at most `HOST_SHARE` of what is free there; the processes of one machine decode a part each and share one copy.
    Larger sets stay in the archive. All processes decide alike.

    Raises:
        UserError: an image cannot be read (found now when everything is decoded now), or the disk is full.
    """
    needed = len(index) * archive.img_channels * archive.img_resolution**2
    if any(group.gather(needed > HOST_SHARE * free_memory())):
        return LazyImages(archive, index, workers, pin=device.type == "cuda")
    if group.local_size == 1:
        images = archive.load_images(group.rank == 0, workers, index)
    else:
        images = _decode_together(archive, index, workers, group)
    data = torch.from_numpy(images)
    if device.type == "cuda" and needed <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return data.to(device)
    return data


def _decode_together(archive: Archive, index: np.ndarray, workers: int, group: Group) -> np.ndarray:
    """All images, uint8 [N, C, H, W], in a file that every process of this machine maps; each decodes its part of them.

    The file loses its name as soon as all have it open, and goes when the last process ends, however it ends.
    """
    shape = (len(index), archive.img_channels, archive.img_resolution, archive.img_resolution)
    made: Path | UserError | None = None
    if group.local_rank == 0:
        made = _make_file(math.prod(shape))
    try:
        places = group.gather(made)
        if errors := [found for found in places if isinstance(found, UserError)]:
            raise errors[0]
        with open(places[group.rank - group.local_rank], "rb+", opener=_opened) as file:
            images = np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
        group.gather(None)  # all have it open
    finally:
        if isinstance(made, Path):
            with suppress(OSError):
                made.unlink()
    bounds = np.linspace(0, len(index), group.local_size + 1).astype(int)
    mine = slice(bounds[group.local_rank], bounds[group.local_rank + 1])
    error = None
    try:
        archive.load_images(group.rank == 0, workers, index[mine], images[mine])
    except UserError as found:
        error = found
    if errors := [found for found in group.gather(error) if found is not None]:
        raise errors[0]
    return np.asarray(images)


def _make_file(size: int) -> Path | UserError:
    """An empty file of this size in the folder of temporary files, or why there is none."""
    try:
        handle, name = tempfile.mkstemp(prefix="stylegan2-msp-", suffix=".images")
    except OSError as error:
        return UserError(f"decoded images need a file: {error.strerror}; set TMPDIR to a folder that can be written")
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)  # a full disk is found now, not by a signal later
        else:
            os.truncate(handle, size)
    except OSError as error:
        found = f"{size / 2**20:.0f} MiB for decoded images do not fit ({error.strerror})"
        os.close(handle)  # Windows removes no open file
        Path(name).unlink()
        return UserError(f"{Path(name).parent}: {found}; free space or set TMPDIR to another folder")
    os.close(handle)
    return Path(name)


def _opened(name: str, flags: int) -> int:
    """Opens a file that goes when the last process has closed it: on Windows a file in use cannot lose its name."""
    return os.open(name, flags | getattr(os, "O_TEMPORARY", 0))
