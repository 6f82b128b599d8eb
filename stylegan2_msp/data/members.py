"""The files of an archive, a zip or a folder: names checked, sizes bounded, contents verified."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from stylegan2_msp.data.zip_directory import UTF8, ZipDirectory, read_directory
from stylegan2_msp.errors import UserError

Reader = Callable[[str, int], bytes]
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED, _ENCRYPTED = 0, 8, 0x1


class Members:
    """Names and contents of the files in a zip or a folder.

    Attributes:
        path: the zip or folder.
        names: of every file, sorted (forward slashes, relative).

    Raises:
        UserError: missing, empty, truncated, no zip; names that leave the archive or come twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise UserError(f"{path}: does not exist; make an archive with the dataset tool or correct the path")
        self._rows: np.ndarray | None = None
        if path.is_dir():
            self.names = _folder_files(path)
        else:
            self.names, self._rows = _zip_files(path)
        if not self.names:
            raise UserError(f"{path}: holds no files; make an archive with the dataset tool")

    def __contains__(self, name: str) -> bool:
        place = bisect_left(self.names, name)
        return place < len(self.names) and self.names[place] == name

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Gives a function (name, limit in bytes) -> contents; it raises UserError for what is damaged or too large."""
        if self._rows is None:
            yield self._read_from_folder
            return
        try:
            file = io.FileIO(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        try:
            yield lambda name, limit: self._read_from_zip(file, name, limit)
        finally:
            file.close()

    def content_sha256(self) -> str:
        """Hash of the zip file, or of a folder's names and contents."""
        digest = hashlib.sha256()
        try:
            if self._rows is not None:
                with open(self.path, "rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
                return digest.hexdigest()
            for name in self.names:
                data = (self.path / name).read_bytes()
                digest.update(f"{name!r} {len(data)} ".encode())
                digest.update(data)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        return digest.hexdigest()

    def _bounded(self, name: str, size: int, limit: int) -> None:
        if size > limit:
            raise UserError(
                f"{self.path}: {name!r} is absurdly large ({size} bytes unpacked, {limit} allowed); "
                "get the archive again or make it with the dataset tool"
            )

    def _read_from_folder(self, name: str, limit: int) -> bytes:
        try:
            with open(self.path / name, "rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise UserError(f"{self.path}: {name!r} cannot be read ({error.strerror})") from error
        self._bounded(name, len(data), limit)
        return data

    def _read_from_zip(self, file: io.FileIO, name: str, limit: int) -> bytes:
        """Contents of one member; several times quicker than zipfile for many small ones."""
        assert self._rows is not None
        flags, method, crc, packed, size, offset = self._rows[bisect_left(self.names, name)].item()
        self._bounded(name, size, limit)
        self._bounded(name, packed, limit + limit // 100 + 1000)
        try:
            stored = name.encode("utf-8" if flags & UTF8 else "cp437")
            data = _packed_bytes(file, stored, offset, packed)
            if method == _DEFLATED:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
            if len(data) != size:
                raise ValueError(f"it unpacks to another size than the {size} bytes declared")
            if zlib.crc32(data) != crc:
                raise ValueError("its checksum does not match")
        except (OSError, ValueError, OverflowError, struct.error, zlib.error) as error:
            raise UserError(f"{self.path}: {name!r} is damaged ({error}); get the archive again") from error
        return data


def _packed_bytes(file: io.FileIO, name: bytes, offset: int, packed: int) -> bytes:
    """A member's bytes as they lie in the zip, behind its local header, which must name it too."""
    fixed = _LOCAL_HEADER.size
    file.seek(offset)
    block: bytes = file.read(fixed + len(name) + 64 + packed)
    header = _LOCAL_HEADER.unpack(block[:fixed])
    if header[0] != b"PK\x03\x04" or block[fixed : fixed + header[9]] != name:
        raise ValueError("no such member where the directory says it is")
    start = fixed + header[9] + header[10]
    if header[10] > 64:
        file.seek(offset + start)
        data = file.read(packed)
    else:
        data = block[start : start + packed]
    if len(data) != packed:
        raise ValueError("it ends early")
    return data


def _zip_files(path: Path) -> tuple[list[str], np.ndarray]:
    """Names and directory rows of the zip's files, or one line that says why it is not an archive."""
    directory = _zip_directory(path)
    names, rows = directory.names, directory.rows
    for name in _suspicious(names):
        _check_name(path, name)
    files = np.array([not name.endswith("/") for name in names], dtype=bool)
    unknown = (rows["flags"] & _ENCRYPTED != 0) | ~np.isin(rows["method"], (_STORED, _DEFLATED))
    if (unknown := unknown & files).any():
        name = names[int(unknown.argmax())]
        raise UserError(f"{path}: {name!r} is encrypted or packed in an unknown way; zip it plainly")
    if not files.all():
        names, rows = [name for name, keep in zip(names, files, strict=True) if keep], rows[files]
    if (twice := next((a for a, b in pairwise(names) if a == b), None)) is not None:
        raise UserError(f"{path}: {twice!r} comes twice; make the archive again")
    return names, rows


def _zip_directory(path: Path) -> ZipDirectory:
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            if not start:
                raise UserError(f"{path}: is an empty file, expected a zip or a folder; make it again")
            return read_directory(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        found = "is a truncated or damaged zip" if start[:2] == b"PK" else "is not a zip"
        raise UserError(f"{path}: {found} ({error}); expected a zip or a folder of PNGs, get it again") from error


def _suspicious(names: list[str]) -> list[str]:
    """The names that need a closer look: none in the usual case, found by looking at all of them at once."""
    joined = "\n" + "\n".join(names)
    if any(sign in joined for sign in ("\\", "\0", ":", "..", "\n/")):
        return names
    return []


def stays_inside(name: str) -> bool:
    """Whether a member of this name lies in its archive, on any system."""
    return not (name.startswith("/") or "\\" in name or "\0" in name or ":" in name[:2] or ".." in name.split("/"))


def _check_name(path: Path, name: str) -> None:
    if "\\" in name and stays_inside(name.replace("\\", "/")):
        raise UserError(
            f"{path}: member {name!r} has backslashes between its folders, as Compress-Archive of older PowerShells "
            "writes them; zip it otherwise (the Explorer does it right), or give the folder"
        )
    if not stays_inside(name):
        raise UserError(f"{path}: member {name!r} points outside the archive; do not use this file, make it again")


def _folder_files(path: Path) -> list[str]:
    try:
        return sorted(_files_below(str(path), "", (os.stat(path),)))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _files_below(folder: str, prefix: str, above: tuple[os.stat_result, ...]) -> Iterator[str]:
    """Names of all files; links to folders are followed, but not to one that they lie in."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _holds(entry.is_dir):
                here = os.stat(entry.path)
                if any(os.path.samestat(here, other) for other in above):
                    raise UserError(f"{entry.path}: is a link to a folder that it lies in; remove it")
                yield from _files_below(entry.path, f"{prefix}{entry.name}/", (*above, here))
            elif _holds(entry.is_file):
                yield prefix + entry.name


def _holds(is_it: Callable[[], bool]) -> bool:
    """Whether it is that; a link that leads nowhere, or to itself, is nothing."""
    try:
        return is_it()
    except OSError:
        return False
