"""Fetching MNIST: several mirrors, retry, resume of what was cut off, checksum."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import requests
from filelock import FileLock
from urllib3.exceptions import HTTPError

from stylegan2_msp.data.sources.mnist import STEMS
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import make_folder, put_in_place
from stylegan2_msp.progress import track

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# of the unpacked contents: mirrors may gzip them differently
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_ROUNDS = 3
_CHUNK = 1 << 16
_MAX_BYTES = 1 << 28
_INSTEAD = "set XDG_CACHE_HOME, or give the MNIST folder by --source"


def cache_folder() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME or ~/.cache, stylegan2-msp/mnist.

    Raises:
        UserError: the user has no home folder (in a container, say).
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):
        raise UserError(f"MNIST: there is no home folder to keep it in; {_INSTEAD}")
    return Path(base) / "stylegan2-msp" / "mnist"


def download_mnist(
    split: str,
    folder: Path | None = None,
    mirrors: Sequence[str] = MIRRORS,
    checksums: dict[str, str] | None = None,
    pause_sec: float = 2.0,
) -> Path:
    """Makes sure that a split's two files lie in a folder, whole and as published.

    Args:
        split: 'train' or 'test'.
        folder: where to keep them; default `cache_folder`.
        mirrors: addresses to try, each ending in '/'.
        checksums: md5 of each unpacked file by its stem; default MNIST's.
        pause_sec: rest before another round over the mirrors.

    Returns:
        the folder.

    Raises:
        UserError: no mirror gave the file, or the folder cannot be written.
    """
    folder, sums = folder or cache_folder(), checksums or MD5
    if all(_is_right(folder / f"{stem}.gz", sums[stem]) for stem in STEMS[split]):
        return folder  # which need not be writable, then
    make_folder(folder, _INSTEAD)
    lock = FileLock(folder / ".lock")  # jobs of an array begin at once, and would write to one file
    with suppress(OSError, NotImplementedError):  # a file system without locks
        lock.acquire()
    try:
        for stem in STEMS[split]:
            _fetch(folder / f"{stem}.gz", mirrors, sums[stem], pause_sec)
    finally:
        lock.release()
    return folder


def _fetch(target: Path, mirrors: Sequence[str], md5: str, pause_sec: float) -> None:
    if target.is_file() and _is_right(target, md5):
        return
    part = target.with_name(target.name + ".part")
    problem = ""
    for attempt in range(_ROUNDS):
        if attempt:
            time.sleep(pause_sec * attempt)
        for mirror in mirrors:
            try:
                _continue_download(mirror + target.name, part)
            except (requests.RequestException, HTTPError) as error:
                problem = f"{mirror}: {type(error).__name__}"
                continue
            except OSError as error:
                raise UserError(f"{part}: cannot be written ({error.strerror}); free space") from error
            if _is_right(part, md5):
                put_in_place(part, target)
                return
            problem = f"{mirror}: another checksum than published"
            part.unlink(missing_ok=True)
    raise UserError(
        f"{target.name}: could not be downloaded ({problem}); try again later or give the MNIST folder by --source"
    )


def _continue_download(url: str, part: Path) -> None:
    """Fetches what is missing of a file; RequestException, also when the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=(10, 30)) as response:
        if response.status_code == 416:  # already whole, or longer than the mirror's file: the checksum tells
            return
        response.raise_for_status()
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status_code == 206 and not resumed:
            part.unlink()
            raise requests.RequestException("answered with another range than asked for")
        start = have if response.status_code == 206 else 0
        total = start + int(response.headers.get("Content-Length") or 0)
        blocks = response.raw.stream(_CHUNK, decode_content=False)
        missing = max(total - start, 1)
        with open(part, "ab" if start else "wb") as file:
            for block in track(blocks, f"downloading {part.stem}", missing >> 10, "kB", step=_CHUNK >> 10):
                file.write(block)
                if file.tell() > _MAX_BYTES:
                    raise requests.RequestException("is far too large")


def _is_right(path: Path, md5: str) -> bool:
    try:
        with gzip.open(path) as file:
            data = file.read(_MAX_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == md5
