"""The files of an archive, a zip or a folder: names checked, sizes bounded, contents verified."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stylegan2_msp.errors import UserError

Reader = Callable[[str, int], bytes]
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


class Members:
    """Names and contents of the files in a zip or a folder.

    Attributes:
        path: the zip or folder.
        sizes: declared size in bytes of every file by its name (forward slashes, relative).

    Raises:
        UserError: missing, empty, truncated, no zip; names that leave the archive or come twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise UserError(f"{path}: does not exist; make an archive with the dataset tool or correct the path")
        self._infos = None if path.is_dir() else _zip_directory(path)
        if self._infos is None:
            self.sizes = _folder_files(path)
        else:
            self.sizes = {name: info.file_size for name, info in self._infos.items()}
        if not self.sizes:
            raise UserError(f"{path}: holds no files; make an archive with the dataset tool")

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Gives a function (name, limit in bytes) -> contents; it raises UserError for what is damaged or too large."""
        if self._infos is None:
            yield self._read_from_folder
            return
        try:
            file = io.FileIO(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        infos = self._infos
        try:
            yield lambda name, limit: self._read_from_zip(file, infos[name], limit)
        finally:
            file.close()

    def content_sha256(self) -> str:
        """Hash of the zip file, or of a folder's names and contents."""
        digest = hashlib.sha256()
        try:
            if self._infos is not None:
                with open(self.path, "rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
                return digest.hexdigest()
            for name in sorted(self.sizes):
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

    def _read_from_zip(self, file: io.FileIO, info: zipfile.ZipInfo, limit: int) -> bytes:
        """Contents of one member; several times quicker than zipfile for many small ones."""
        self._bounded(info.filename, info.file_size, limit)
        self._bounded(info.filename, info.compress_size, limit + limit // 100 + 1000)
        try:
            data = _unpack(_packed_bytes(file, info), info)
        except (OSError, ValueError, OverflowError, struct.error, zlib.error) as error:
            raise UserError(f"{self.path}: {info.filename!r} is damaged ({error}); get the archive again") from error
        return data


def _packed_bytes(file: io.FileIO, info: zipfile.ZipInfo) -> bytes:
    seek, read = file.seek, file.read
    expected = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
    fixed = _LOCAL_HEADER.size
    seek(info.header_offset)
    block: bytes = read(fixed + len(expected) + 64 + info.compress_size)
    header = _LOCAL_HEADER.unpack(block[:fixed])
    if header[0] != b"PK\x03\x04" or block[fixed : fixed + header[9]] != expected:
        raise ValueError("no such member where the directory says it is")
    start = fixed + header[9] + header[10]
    if header[10] > 64:
        seek(info.header_offset + start)
        packed = read(info.compress_size)
    else:
        packed = block[start : start + info.compress_size]
    if len(packed) != info.compress_size:
        raise ValueError("it ends early")
    return packed


def _unpack(packed: bytes, info: zipfile.ZipInfo) -> bytes:
    data = packed
    if info.compress_type == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-15).decompress(packed, info.file_size + 1)
    if len(data) != info.file_size:
        raise ValueError(f"it unpacks to another size than the {info.file_size} bytes declared")
    if zlib.crc32(data) != info.CRC:
        raise ValueError("its checksum does not match")
    return data


def _zip_directory(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The zip's files by name, or one line that says why it is not an archive."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise UserError(f"{path}: is an empty file, expected a zip or a folder; make it again")
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except Exception as error:  # zipfile raises a dozen types for damaged directories
        found = "is a truncated or damaged zip" if start[:2] == b"PK" else "is not a zip"
        raise UserError(f"{path}: {found} ({error}); expected a zip or a folder of PNGs, get it again") from error
    files: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        _check_name(path, info.orig_filename)
        if info.filename in files:
            raise UserError(f"{path}: {info.filename!r} comes twice; make the archive again")
        if info.filename.endswith("/"):
            continue
        if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{path}: {info.filename!r} is encrypted or packed in an unknown way; zip it plainly")
        files[info.filename] = info
    return files


def _check_name(path: Path, name: str) -> None:
    if name.startswith("/") or "\\" in name or "\0" in name or ":" in name[:2] or ".." in name.split("/"):
        raise UserError(f"{path}: member {name!r} points outside the archive; do not use this file, make it again")


def _folder_files(path: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            full = Path(folder, name)
            if full.is_file():
                sizes[full.relative_to(path).as_posix()] = full.stat().st_size
    return sizes
