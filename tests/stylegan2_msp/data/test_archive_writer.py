"""An archive is put in place whole or not at all, and what stood there stays."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from stylegan2_msp.data import archive_writer
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.data.pixels import encode_png
from stylegan2_msp.data.samples import Annotation, Samples, default_names
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


@pytest.mark.parametrize("before", [False, True], ids=["new", "empty"])
def test_a_folder_is_written_where_windows_writes_it(
    tmp_path: Path, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no os.sync there, and no folder takes the place of another, be it empty."""
    replace, dest = os.replace, tmp_path / "data"

    def replace_there(source: str | Path, target: str | Path) -> None:
        if os.path.isdir(target):
            raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, target)

    monkeypatch.delattr(os, "sync", raising=False)
    monkeypatch.setattr(os, "replace", replace_there)
    if before:
        dest.mkdir()
    write_archive(dest, images(), progress=False)
    assert len(open_archive(dest)) == len(images())


def test_names_that_are_one_file_here_do_not_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disks of macOS and Windows do not tell capitals: one of the images was lost without a word."""

    def open_there(path: Path, mode: str) -> IO[bytes]:
        return open(path.with_name(path.name.lower()), mode)

    monkeypatch.setattr(archive_writer, "open", open_there, raising=False)
    with pytest.raises(UserError, match=r"'b\.png' and another name differ in capitals .*; give --dest a \.zip"):
        write_archive(tmp_path / "data", replace(images(2), names=["B.png", "b.png"]), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_of_the_same_number_left_is_no_part_of_a_folder(tmp_path: Path) -> None:
    """In a container all begin at 1."""
    left = tmp_path / f".data.{os.getpid()}.tmp"
    left.mkdir()
    (left / "z.png").write_bytes(b"half")
    assert len(open_archive(write_archive(tmp_path / "data", images(3), progress=False))) == 3


def test_the_bytes_do_not_tell_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = write_archive(tmp_path / "here.zip", images(), progress=False).read_bytes()
    monkeypatch.setattr(sys, "platform", "win32")
    assert write_archive(tmp_path / "windows.zip", images(), progress=False).read_bytes() == here


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


def test_labels_that_could_not_be_read_again_replace_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "data.zip", images(3))
    before = (tmp_path / "data.zip").read_bytes()
    monkeypatch.setattr("stylegan2_msp.data.archive_writer._MANIFEST_MOST", 100)
    labelled = replace(images(9), classes=np.arange(9))
    with pytest.raises(UserError, match=r"dataset\.json would have .*: 9 numbers for each of 9 samples"):
        write_archive(tmp_path / "data.zip", labelled)
    assert (tmp_path / "data.zip").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["data.zip"]


def test_many_classes_take_two_bytes_each(tmp_path: Path) -> None:
    K, N = 20_000, 12
    u = np.full(N, 0.5, np.float32)
    samples = replace(images(N), classes=np.arange(N), class_names=[str(k) for k in range(K)], annotation=Annotation(u))
    archive = open_archive(write_archive(tmp_path / "many.zip", samples))
    assert archive.labels().shape == (N, K + 1)
    assert archive.labels()[:, :K].argmax(axis=1).tolist() == list(range(N))
    with zipfile.ZipFile(tmp_path / "many.zip") as content:
        assert content.getinfo("dataset.json").file_size < 2 * N * K + 8 * K + 1000  # and the names


def test_an_archive_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    write_archive(tmp_path / "disk" / "data.zip", images(3))
    (tmp_path / "link.zip").symlink_to(tmp_path / "disk" / "data.zip")
    write_archive(tmp_path / "link.zip", images(7))
    assert (tmp_path / "link.zip").is_symlink()
    assert len(open_archive(tmp_path / "disk" / "data.zip")) == 7
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["data.zip"]


@pytest.mark.parametrize("dest", [".", "..", "./"])
def test_the_current_folder_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dest: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is the current folder or one above it; name a \.zip or a new folder"):
        write_archive(dest, images(3))


def test_a_class_without_samples_still_counts_when_an_archive_is_read(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for index, name in enumerate(images(2).names):
            content.writestr(name, encode_png(images(2).data[index]))
        rows = [[name, [1 - k, k, 0, 0.7]] for k, name in enumerate(images(2).names)]
        content.writestr("dataset.json", json.dumps({"labels": rows}))
    assert open_archive(archive).num_classes == open_archive(archive).load(progress=False).num_classes == 3


ANNOTATED = {"classes": np.arange(5) % 3}


@pytest.mark.parametrize("dest", ["data.zip", "data"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": [f"../{i}.png" for i in range(5)]}, "'../0.png' is no image's name"),
        ({"names": [f"/tmp/{i}.png" for i in range(5)]}, "is no image's name"),
        ({"names": [f"img{i}" for i in range(5)]}, "'img0' is no image's name"),
        ({"data": np.zeros((5, 1, 6, 6), np.uint8)}, "6x6 go into no archive"),
        ({"data": np.zeros((0, 1, 8, 8), np.uint8), "names": []}, "no samples"),
        ({"data": np.full((5, 2), np.nan, np.float32)}, "finite"),
        ({"annotation": Annotation(np.full(5, 0.9))}, "need classes"),
        ({"annotation": Annotation(np.full(5, 90.0)), **ANNOTATED}, "MSP 90 lies outside"),
        ({"annotation": Annotation(np.full(5, np.nan)), **ANNOTATED}, "NaN"),
        ({"annotation": Annotation(np.full(5, 0.9), np.full((5, 3), 1 / 3, np.float32)), **ANNOTATED}, "MSP 0.333333"),
        (
            {"annotation": Annotation(np.full(5, 0.9), np.full((5, 4), 0.25, np.float32)), **ANNOTATED},
            "expected float32",
        ),
        ({"annotation": Annotation(np.full(5, 0.9), uncertainty="doubt"), **ANNOTATED}, "uncertainty: found"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    tmp_path: Path, dest: str, change: dict[str, object], message: str
) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        write_archive(tmp_path / "below" / dest, replace(images(), **change), progress=False)  # type: ignore[arg-type]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
