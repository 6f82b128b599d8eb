"""MNIST from idx files: read, checked, padded to 32x32."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from stylegan2_msp.data.samples import Samples, default_names
from stylegan2_msp.data.selection import random_subset
from stylegan2_msp.errors import UserError

STEMS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_MAX_BYTES = 1 << 30


def mnist(folder: str | Path, split: str = "train", max_images: int | None = None, seed: int = 0) -> Samples:
    """The 28x28 digits of one split, padded with black to 32x32 (sizes must be powers of two).

    Args:
        folder: holds the split's two idx files, gzipped or not.
        split: 'train' or 'test', the original files.
        max_images: keep a random subset of this size.
        seed: seed of the subset.

    Returns:
        uint8 [N, 1, 32, 32].

    Raises:
        UserError: no such split; a file is missing, damaged or no such idx file.
    """
    if split not in STEMS:
        raise UserError(f"split {split!r}: is not one of {', '.join(STEMS)}; choose one")
    image_file, label_file = (find_idx(folder, stem) for stem in STEMS[split])
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if len(images) != len(labels):
        raise UserError(f"{label_file}: holds {len(labels)} labels for {len(images)} images; get both files again")
    if images.shape[1:] != (28, 28) or not len(images):
        raise UserError(f"{image_file}: holds an array {list(images.shape)}, expected [N, 28, 28]; get it again")
    if labels.max() > 9:
        raise UserError(f"{label_file}: holds the label {labels.max()}, expected 0 to 9; get it again")
    rows = random_subset(np.arange(len(images)), max_images, seed, split)
    return Samples(
        data=np.pad(images[rows], ((0, 0), (2, 2), (2, 2)))[:, None],
        names=default_names("images", len(rows)),
        classes=labels[rows].astype(np.int64),
        class_names=[str(index) for index in range(10)],
        split=split,
    )


def find_idx(folder: str | Path, stem: str) -> Path:
    """The idx file of this name, gzipped or not, also in the spelling with a dot before 'idx'.

    Raises:
        UserError: there is none.
    """
    spellings = [stem, stem.replace("-idx", ".idx")]
    for name in (spelling + suffix for suffix in (".gz", "") for spelling in spellings):
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    found = f"holds neither {stem}.gz nor {stem}" if Path(folder).is_dir() else "is not a folder"
    raise UserError(f"--source {folder}: {found}; give the folder with the MNIST files, or leave --source out")


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """An idx file of bytes (LeCun's format: two zeros, type 8, number of axes, sizes big-endian, then the data).

    Returns:
        uint8 with ``ndim`` axes.

    Raises:
        UserError: it is damaged or of another type.
    """
    try:
        data = _unpack(path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); get the file again") from error
    header = 4 + 4 * ndim
    if len(data) < header or data[:4] != bytes([0, 0, 8, ndim]):
        raise UserError(f"{path}: is no idx file of bytes with {ndim} axes; get the file again")
    shape = struct.unpack(f">{ndim}I", data[4:header])
    expected = int(np.prod(shape, dtype=object))
    if len(data) - header != expected:
        raise UserError(f"{path}: holds {len(data) - header} bytes, its header says {expected}; get the file again")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _unpack(path: Path) -> bytes:
    """A file's contents, gunzipped if the name ends in .gz; refuses what unpacks to more than a gigabyte."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise OSError("unpacks to more than 1 GiB")
    return data
