"""Processes of one machine decode a part of the images each and share one copy; they decide alike and fail alike."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stylegan2_msp.data import memory, storage
from stylegan2_msp.data.archive import Archive, open_archive, write_archive
from stylegan2_msp.data.lazy import LazyImages
from stylegan2_msp.data.samples import Samples, default_names
from stylegan2_msp.errors import UserError

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)


class Meeting:
    """Threads that stand for processes on one or more machines; gather is a barrier around a shared list."""

    def __init__(self, size: int, local_size: int) -> None:
        self.size, self.local_size = size, local_size
        self.barrier = threading.Barrier(size, timeout=30)
        self.values: list[Any] = [None] * size

    def run(self, archive: Archive, index: np.ndarray) -> list[Any]:
        found: list[Any] = [None] * self.size

        def one(rank: int) -> None:
            try:
                found[rank] = storage.store_images(archive, index, CPU, 1, Member(self, rank))
            except UserError as error:
                found[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        return found


@dataclass(frozen=True)
class Member:
    meeting: Meeting
    rank: int

    @property
    def local_rank(self) -> int:
        return self.rank % self.meeting.local_size

    @property
    def local_size(self) -> int:
        return self.meeting.local_size

    def gather(self, value: Any) -> list[Any]:
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait()
        values = list(self.meeting.values)
        self.meeting.barrier.wait()
        return values


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    samples = Samples(IMAGES, default_names("images", len(IMAGES)))
    return open_archive(write_archive(tmp_path / "data.zip", samples, progress=False))


@pytest.mark.parametrize(("size", "local_size"), [(2, 2), (3, 3), (4, 2)])
def test_each_image_is_decoded_once_per_machine_and_all_see_it(
    archive: Archive, folder: Path, size: int, local_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    image = Archive.image

    def counted(self: Archive, row: int, read: Any) -> np.ndarray:
        decoded.append(row)
        deadline = time.monotonic() + 10
        while list(folder.iterdir()):  # nothing stays when all are killed in the middle
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return image(self, row, read)

    monkeypatch.setattr(Archive, "image", counted)
    index = np.arange(1, len(IMAGES))
    found = Meeting(size, local_size).run(archive, index)
    assert sorted(decoded) == sorted(index.tolist() * (size // local_size))
    for data in found:
        np.testing.assert_array_equal(data.numpy(), IMAGES[index])
    found[0][0] = 7  # one copy: what one process writes the other sees
    assert (found[1][0] == 7).all()
    assert list(folder.iterdir()) == []


def test_one_process_with_little_memory_makes_all_lazy(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([10**9, 0, 10**9, 10**9])
    monkeypatch.setattr(storage, "free_memory", lambda: next(left))
    for data in Meeting(4, 2).run(archive, np.arange(len(IMAGES))):
        assert isinstance(data, LazyImages)


def test_a_damaged_image_is_told_by_all_and_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    path = write_archive(tmp_path / "x.zip", Samples(IMAGES, default_names("images", 30)), progress=False)
    data = bytearray(path.read_bytes())
    data[data.index(b"img00000029.png") + 55] ^= 0xFF
    path.write_bytes(data)
    for error in Meeting(2, 2).run(open_archive(path), np.arange(30)):
        assert isinstance(error, UserError)
        assert "'00000/img00000029.png' is damaged" in str(error)
    assert list(folder.iterdir()) == []


FULL = """
import resource, sys, tempfile
from stylegan2_msp.data import storage
tempfile.tempdir = sys.argv[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
print(storage._make_file(5 << 20))
"""


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_full_disk_is_one_line_and_leaves_nothing(folder: Path) -> None:
    """A process that may write no file over 1 MiB stands for the full disk."""
    done = subprocess.run([sys.executable, "-c", FULL, str(folder)], capture_output=True, text=True, check=True)
    assert "5 MiB for decoded images do not fit" in done.stdout
    assert "TMPDIR" in done.stdout
    assert list(folder.iterdir()) == []


def test_where_open_files_keep_their_names_they_go_when_they_are_closed(
    archive: Archive, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, whose O_TEMPORARY says so; before, each run left a file as large as all images there."""
    temporary, opened, unlink, os_open = 1 << 30, [], Path.unlink, os.open

    def open_there(name: str, flags: int, mode: int = 0o777) -> int:
        if str(name).endswith(".images") and flags & temporary:
            opened.append(name)
        return os_open(name, flags & ~temporary, mode)

    def unlink_there(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "another process uses the file", str(path))

    monkeypatch.setattr(os, "O_TEMPORARY", temporary, raising=False)
    monkeypatch.setattr(os, "open", open_there)
    monkeypatch.setattr(Path, "unlink", unlink_there)
    found = Meeting(2, 2).run(archive, np.arange(len(IMAGES)))
    monkeypatch.setattr(Path, "unlink", unlink)
    np.testing.assert_array_equal(found[1].numpy(), IMAGES)
    assert len(opened) == 2


def test_a_file_that_does_not_fit_is_closed_before_it_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows removes no open file."""
    unlink, close, closed = Path.unlink, os.close, []

    def unlink_there(path: Path, missing_ok: bool = False) -> None:
        if not closed:
            raise PermissionError(errno.EACCES, "another process uses the file", str(path))
        unlink(path, missing_ok)

    def full(handle: int, *_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "unlink", unlink_there)
    monkeypatch.setattr(os, "close", lambda handle: (closed.append(handle), close(handle)))
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(os, "truncate", full)
    assert "do not fit (No space left on device)" in str(storage._make_file(5 << 20))
    assert list(folder.iterdir()) == []


def test_no_place_for_the_decoded_images_is_one_line(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose file system is read-only."""

    def none_usable(**_: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/']")

    monkeypatch.setattr(tempfile, "mkstemp", none_usable)
    for error in Meeting(2, 2).run(archive, np.arange(len(IMAGES))):
        assert isinstance(error, UserError)
        assert "No usable temporary directory found" in str(error)
        assert "TMPDIR" in str(error)


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_memory() == 600
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 250\nactive_file 50\n")
    assert memory.free_memory() == 850  # files that are only kept are given up
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() > 10**6


@pytest.mark.parametrize(
    ("line", "place", "limit", "used", "kept"),
    [
        ("0::/system.slice/slurm.scope/job_7/step_0/task_0", "system.slice/slurm.scope/job_7", *memory._V2),
        ("4:cpu,memory:/slurm/job_7/step_0/task_0", "memory/slurm/job_7", *memory._V1),
    ],
    ids=["v2", "v1"],
)
def test_a_job_has_less_memory_than_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, place: str, limit: str, used: str, kept: str
) -> None:
    """Slurm limits a group some levels above the process's own; other groups say nothing."""
    job = tmp_path / place
    (job / "step_0" / "task_0").mkdir(parents=True)
    (job / limit).write_text("1000\n")
    (job / used).write_text("400\n")
    (job / "memory.stat").write_text(f"{kept} 250\n")
    (job / "step_0" / limit).write_text("9223372036854771712\n" if "limit" in limit else "max\n")
    (job / "step_0" / used).write_text("1\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text(f"2:cpuset:/elsewhere\n{line}\n")
    assert memory.free_memory() == 850
    (tmp_path / "own").write_text(f"{line.replace('job_7', 'job_8')}\n2:cpuset:/\n1:name=systemd:/../..\n0::/../..\n")
    assert memory.free_memory() > 10**6


def test_images_that_do_not_fit_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 1 << 20)
    with pytest.raises(UserError, match=r"images need 3\.0 GiB of memory, 0\.0 GiB are free; make a smaller"):
        memory.room((1 << 20, 3, 32, 32), "photos.zip")
