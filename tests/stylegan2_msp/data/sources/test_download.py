"""The downloader against a local server that cuts connections, fails and serves rubbish."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stylegan2_msp.data.sources import download
from stylegan2_msp.data.sources.download import MD5, cache_folder, download_mnist
from stylegan2_msp.data.sources.mnist import STEMS
from stylegan2_msp.errors import UserError

CONTENT = {stem: np.random.default_rng(i).bytes(100_000 + i) for i, stem in enumerate(MD5)}
SUMS = {stem: hashlib.md5(data).hexdigest() for stem, data in CONTENT.items()}
FILES = {f"{stem}.gz": gzip.compress(data, mtime=0) for stem, data in CONTENT.items()}


class Mirror(http.server.BaseHTTPRequestHandler):
    """Paths /<behaviour>/<file>; what was asked is kept in ``asked``."""

    asked: list[tuple[str, str | None]]
    failures: int

    def do_GET(self) -> None:
        _, behaviour, name = self.path.split("/")
        wanted = self.headers.get("Range")
        type(self).asked.append((behaviour, wanted))
        data, status, start = FILES[name], 200, 0
        if behaviour == "down" or (behaviour == "flaky" and self._fails()):
            self.send_error(503)
            return
        if behaviour == "slow":
            time.sleep(0.5)
        if wanted and behaviour != "no-range":
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(data):
                self.send_error(416)
                return
        if behaviour == "rubbish":
            data = bytes(len(data))
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) - start))
        if behaviour == "encoded":
            self.send_header("Content-Encoding", "gzip")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        part = data[start:]
        self.wfile.write(part[:40_000] if behaviour in ("cuts", "no-range") and self._fails() else part)

    def _fails(self) -> bool:
        type(self).failures -= 1
        return self.failures >= 0

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Mirror]]]:
    class Fresh(Mirror):
        asked: list[tuple[str, str | None]] = []  # noqa: RUF012 (fresh for each test)
        failures = 0

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh) as httpd:
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/", Fresh
        httpd.shutdown()


def fetch(folder: Path, *mirrors: str, split: str = "train") -> Path:
    return download_mnist(split, folder, mirrors, SUMS, pause_sec=0)


def assert_complete(folder: Path, split: str = "train") -> None:
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"} == {
        f"{s}.gz": FILES[f"{s}.gz"] for s in STEMS[split]
    }


def test_downloads_the_splits_two_files_once(tmp_path: Path, server: tuple[str, type[Mirror]]) -> None:
    url, mirror = server
    assert fetch(tmp_path / "cache", url + "good/") == tmp_path / "cache"
    assert_complete(tmp_path / "cache")
    fetch(tmp_path / "cache", url + "good/")
    assert mirror.asked == [("good", None)] * 2
    fetch(tmp_path / "test", url + "good/", split="test")
    assert_complete(tmp_path / "test", "test")


def test_two_that_begin_at_once_download_once(tmp_path: Path, server: tuple[str, type[Mirror]]) -> None:
    """Jobs of an array on a cluster, say."""
    url, mirror = server
    with ThreadPoolExecutor(2) as both:
        found = [both.submit(fetch, tmp_path, url + "slow/") for _ in range(2)]
    assert [one.result() for one in found] == [tmp_path] * 2
    assert_complete(tmp_path)
    assert mirror.asked == [("slow", None)] * 2


def test_resumes_where_the_connection_was_cut(tmp_path: Path, server: tuple[str, type[Mirror]]) -> None:
    url, mirror = server
    mirror.failures = 2
    fetch(tmp_path, url + "cuts/")
    assert_complete(tmp_path)
    assert mirror.asked == [("cuts", None), ("cuts", "bytes=40000-"), ("cuts", "bytes=80000-"), ("cuts", None)]


def test_starts_again_where_the_server_cannot_resume(tmp_path: Path, server: tuple[str, type[Mirror]]) -> None:
    url, mirror = server
    mirror.failures = 1
    fetch(tmp_path, url + "no-range/")
    assert_complete(tmp_path)
    assert mirror.asked[:2] == [("no-range", None), ("no-range", "bytes=40000-")]


@pytest.mark.parametrize("first", ["down/", "rubbish/", "encoded/"])
def test_next_mirror_when_one_fails(tmp_path: Path, server: tuple[str, type[Mirror]], first: str) -> None:
    url, _ = server
    fetch(tmp_path, url + first, url + "good/")
    assert_complete(tmp_path)


def test_tries_again_after_failures(tmp_path: Path, server: tuple[str, type[Mirror]]) -> None:
    url, mirror = server
    mirror.failures = 2
    fetch(tmp_path, url + "flaky/")
    assert_complete(tmp_path)


@pytest.mark.parametrize("leftover", [b"rubbish", bytes(1_000_000)])
def test_rubbish_left_by_an_earlier_try(tmp_path: Path, server: tuple[str, type[Mirror]], leftover: bytes) -> None:
    url, _ = server
    (tmp_path / "train-images-idx3-ubyte.gz.part").write_bytes(leftover)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(leftover)
    fetch(tmp_path, url + "good/")
    assert_complete(tmp_path)


def test_part_that_was_whole_already(tmp_path: Path, server: tuple[str, type[Mirror]]) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz.part").write_bytes(FILES["train-images-idx3-ubyte.gz"])
    fetch(tmp_path, server[0] + "good/")
    assert_complete(tmp_path)


@pytest.mark.parametrize(("behaviour", "reason"), [("down/", "HTTPError"), ("rubbish/", "another checksum")])
def test_says_what_to_do_when_no_mirror_helps(
    tmp_path: Path, server: tuple[str, type[Mirror]], behaviour: str, reason: str
) -> None:
    with pytest.raises(UserError, match=rf"could not be downloaded \(.*{reason}.*--source"):
        fetch(tmp_path, server[0] + behaviour)
    assert not (tmp_path / "train-images-idx3-ubyte.gz").exists()


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ConnectionError.*--source"):
        fetch(tmp_path, "http://127.0.0.1:9/")


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "stylegan2-msp" / "mnist"


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers that run with any user's number."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UserError, match=r"no home folder .*XDG_CACHE_HOME.*--source"):
        download_mnist("train")


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was advised to choose another output folder, of which there was none to choose."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"mnist: cannot be made .*; set XDG_CACHE_HOME, .*--source"):
        download_mnist("train")


def test_a_whole_copy_is_taken_where_nothing_can_be_written(
    tmp_path: Path, server: tuple[str, type[Mirror]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that a cluster's nodes may only read; the files were there, and the folder was refused."""
    fetch(tmp_path, server[0] + "good/")

    def refuse(path: Path, instead: str = "") -> Path:
        raise UserError(f"{path}: is not writable")

    monkeypatch.setattr(download, "make_folder", refuse)
    fetch(tmp_path, server[0] + "down/")
    assert_complete(tmp_path)
