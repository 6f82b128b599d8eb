"""An archive is put in place whole or not at all, and what stood there stays."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.data.samples import Samples, default_names
from stylegan2_msp.errors import UserError

FULL_DISK = """
import resource, sys
import numpy as np
from stylegan2_msp.data.archive import write_archive
from stylegan2_msp.data.samples import Samples, default_names
from stylegan2_msp.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
images = np.random.default_rng(0).integers(0, 256, (100, 1, 32, 32), dtype=np.uint8)
if sys.argv[2] == "one large":
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 256, 256), dtype=np.uint8)
try:
    write_archive(sys.argv[1], Samples(images, default_names("images", len(images))))
except UserError as error:
    print(error)
"""


def images(count: int = 5) -> Samples:
    rng = np.random.default_rng(1)
    return Samples(rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8), default_names("images", count))


@pytest.mark.parametrize(("dest", "what"), [("data.zip", "many small"), ("data", "one large")])
def test_full_disk(tmp_path: Path, dest: str, what: str) -> None:
    """A process that may write no file over 20,000 bytes stands for the full disk."""
    if dest == "data.zip":
        write_archive(tmp_path / dest, images())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / dest), what], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert "cannot be written (File too large)" in done.stdout
    assert done.stdout.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("dest", ["data.zip", "data"])
def test_interruption_leaves_nothing(tmp_path: Path, dest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(pixels: np.ndarray) -> bytes:
        if pixels is not samples.data[0] and pixels.sum() == samples.data[3].sum():
            raise KeyboardInterrupt
        return b"png"

    samples = images()
    monkeypatch.setattr("stylegan2_msp.data.archive_writer.encode_png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_archive(tmp_path / dest, samples)
    assert list(tmp_path.iterdir()) == []


def test_existing_zip_is_replaced(tmp_path: Path) -> None:
    write_archive(tmp_path / "data.zip", images(3))
    write_archive(tmp_path / "data.zip", images(7))
    assert len(open_archive(tmp_path / "data.zip")) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["data.zip"]


def test_empty_folder_is_filled_and_a_used_one_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_archive(tmp_path / "data", images(3))
    assert len(open_archive(tmp_path / "data")) == 3
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        write_archive(tmp_path / "data", images(4))
    assert len(open_archive(tmp_path / "data")) == 3


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="cannot be made"):
        write_archive(tmp_path / "file" / "data.zip", images())
    with pytest.raises(UserError, match=r"suffix \.tar, expected \.zip"):
        write_archive(tmp_path / "data.tar", images())
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(UserError, match="is a folder, expected a zip"):
        write_archive(tmp_path / "folder.zip", images())
    assert (tmp_path / "file").read_text() == "here"


def test_names_must_be_sorted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sorted"):
        write_archive(tmp_path / "data.zip", replace(images(2), names=["b.png", "a.png"]))
    assert not (tmp_path / "data.zip").exists()
