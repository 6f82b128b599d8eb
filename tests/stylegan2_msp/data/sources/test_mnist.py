"""MNIST from idx files, real and damaged."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from stylegan2_msp.data.sources.download import MD5
from stylegan2_msp.data.sources.mnist import STEMS, find_idx, mnist, read_idx
from stylegan2_msp.errors import UserError

COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # of the training digits 0 to 9


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def small_mnist(folder: Path, count: int = 6, split: str = "train", suffix: str = ".gz") -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    for stem, array in zip(STEMS[split], (images, np.arange(count, dtype=np.uint8) % 10), strict=True):
        data = idx(array)
        (folder / f"{stem}{suffix}").write_bytes(gzip.compress(data) if suffix == ".gz" else data)
    return images


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_images_are_padded_to_32(tmp_path: Path, suffix: str) -> None:
    images = small_mnist(tmp_path, suffix=suffix)
    samples = mnist(tmp_path)
    assert samples.data.shape == (6, 1, 32, 32)
    np.testing.assert_array_equal(samples.data[:, 0, 2:30, 2:30], images)
    assert samples.data.sum() == images.sum(dtype=np.int64)
    assert samples.classes.tolist() == [0, 1, 2, 3, 4, 5]
    assert samples.split == "train"


def test_real_mnist(mnist_dir: Path) -> None:
    train, test = mnist(mnist_dir, "train"), mnist(mnist_dir, "test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert np.bincount(train.classes).tolist() == COUNTS
    pixels = {image.tobytes() for image in train.data}
    assert not pixels & {image.tobytes() for image in test.data}
    assert not np.array_equal(mnist(mnist_dir, "test", 50, seed=0).data, mnist(mnist_dir, "test", 50, seed=1).data)


def test_published_checksums(mnist_dir: Path) -> None:
    for stem, md5 in MD5.items():
        path = find_idx(mnist_dir, stem)
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert hashlib.md5(data).hexdigest() == md5


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        mnist(tmp_path / "nowhere")
    small_mnist(tmp_path, split="train")
    with pytest.raises(UserError, match=r"holds neither t10k-images-idx3-ubyte\.gz nor t10k"):
        mnist(tmp_path, "test")
    with pytest.raises(UserError, match="split 'val': is not one of train, test"):
        mnist(tmp_path, "val")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no idx file"),
        (b"PNG and so on", "is no idx file"),
        (idx(np.zeros((3, 4), np.uint8)), "is no idx file of bytes with 3 axes"),
        (idx(np.zeros((3, 28, 28), np.uint8))[:-5], "holds 2347 bytes, its header says 2352"),
        (bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 2**31, 2**31), "its header says"),
        (idx(np.zeros((6, 20, 20), np.uint8)), r"expected \[N, 28, 28\]"),
        (idx(np.zeros((5, 28, 28), np.uint8)), "holds 6 labels for 5 images"),
    ],
)
def test_damaged_files(tmp_path: Path, data: bytes, message: str) -> None:
    small_mnist(tmp_path, suffix="")
    (tmp_path / STEMS["train"][0]).write_bytes(data)
    with pytest.raises(UserError, match=message):
        mnist(tmp_path)


def test_damaged_gzip(tmp_path: Path) -> None:
    small_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        read_idx(path, 3)
    path.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be read"):
        read_idx(path, 3)


def test_label_out_of_range(tmp_path: Path) -> None:
    small_mnist(tmp_path, suffix="")
    (tmp_path / STEMS["train"][1]).write_bytes(idx(np.array([0, 1, 2, 10, 4, 5], np.uint8)))
    with pytest.raises(UserError, match="holds the label 10"):
        mnist(tmp_path)
