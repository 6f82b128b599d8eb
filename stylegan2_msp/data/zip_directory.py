"""A zip's directory read as arrays: a million members in seconds and about 100 bytes each.

zipfile makes an object of every member, which for a million takes ten seconds and most of a gigabyte.
Layout: PKWARE's APPNOTE 6.3.10, sections 4.3.12 (entries), 4.3.14 to 4.3.16 (ends) and 4.5.3 (zip64).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LENGTHS = struct.Struct("<3H")
_ENTRY = np.dtype(
    {
        "names": ["signature", "flags", "method", "crc", "packed", "size", "offset"],
        "formats": ["<u4", "<u2", "<u2", "<u4", "<u4", "<u4", "<u4"],
        "offsets": [0, 8, 10, 16, 20, 24, 42],
        "itemsize": 46,
    }
)
_SIGNATURE = 0x02014B50
UTF8 = 0x800  # among the flags
_WIDE = 0xFFFFFFFF  # a field that did not fit in 32 bits
ROW = np.dtype([("flags", "u2"), ("method", "u2"), ("crc", "u4"), ("packed", "i8"), ("size", "i8"), ("offset", "i8")])


@dataclass(frozen=True)
class ZipDirectory:
    """Members of a zip in the order of their names.

    Names that are valid UTF-8 are read as that, whether or not a flag says so: Info-ZIP's `zip` and macOS leave it out.

    Attributes:
        names: as stored (forward slashes), sorted; duplicates stand side by side.
        rows: structured [N] of type `ROW`; ``offset`` is where the member's local header begins in the file, and the
            flag `UTF8` says that a name beyond ASCII was read as UTF-8, not as cp437.
    """

    names: list[str]
    rows: np.ndarray


def read_directory(file: BinaryIO) -> ZipDirectory:
    """Reads the directory at a zip's end.

    Raises:
        ValueError: there is none, or it is damaged; the message says how.
        OSError: the file cannot be read.
    """
    start, size, shift = _find(file)
    file.seek(start)
    block = file.read(size)
    if len(block) != size:
        raise ValueError("its directory ends early")
    places, names, unflagged = _walk(block)
    rows = _rows(block, places, names)
    rows["flags"][unflagged] |= UTF8
    rows["offset"] += shift
    if len(rows) and (rows["offset"].min() < 0 or rows["offset"].max() >= start):
        raise ValueError("its directory points outside the file")
    order = sorted(range(len(names)), key=names.__getitem__)
    if any(a > b for a, b in pairwise(order)):
        names, rows = [names[i] for i in order], rows[order]
    return ZipDirectory(names, rows)


def _find(file: BinaryIO) -> tuple[int, int, int]:
    """Where the directory starts, its size, and what to add to the offsets in it (something may precede the zip)."""
    total = file.seek(0, os.SEEK_END)
    reach = min(total, (1 << 16) + _END.size)
    file.seek(total - reach)
    tail = file.read(reach)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + _END.size > len(tail):
        raise ValueError("it has no directory at its end")
    size, offset = _END.unpack_from(tail, place)[5:7]
    end = total - reach + place
    wide = _find_wide(file, end)
    if wide is not None:
        size, offset, end = wide
    start = end - size
    if start < 0 or offset > start:
        raise ValueError("its directory does not fit in the file")
    return start, size, start - offset


def _find_wide(file: BinaryIO, end: int) -> tuple[int, int, int] | None:
    """Size, offset and end of the directory by the zip64 records before the end record, where there are such."""
    if end < _END64_LOCATOR.size + _END64.size:
        return None
    file.seek(end - _END64_LOCATOR.size)
    if _END64_LOCATOR.unpack(file.read(_END64_LOCATOR.size))[0] != b"PK\x06\x07":
        return None
    end -= _END64_LOCATOR.size + _END64.size
    file.seek(end)
    fields = _END64.unpack(file.read(_END64.size))
    if fields[0] != b"PK\x06\x06":
        raise ValueError("its zip64 record is damaged")
    return fields[8], fields[9], end


def _walk(block: bytes) -> tuple[list[int], list[str], list[int]]:
    """Start of every entry and its name; and the rows whose names are UTF-8 beyond ASCII without the flag for it."""
    places: list[int] = []
    names: list[str] = []
    unflagged: list[int] = []
    lengths, fixed, last = _LENGTHS.unpack_from, _ENTRY.itemsize, len(block)
    place = 0
    while place < last:
        if place + fixed > last:
            raise ValueError("its directory ends early")
        of_name, of_extra, of_comment = lengths(block, place + 28)
        name = block[place + fixed : place + fixed + of_name]
        if block[place + 9] & UTF8 >> 8 or name.isascii():
            names.append(name.decode())
        else:
            try:
                names.append(name.decode())
                unflagged.append(len(places))
            except UnicodeDecodeError:
                names.append(name.decode("cp437"))
        places.append(place)
        place += fixed + of_name + of_extra + of_comment
    if place != last:
        raise ValueError("its directory ends early")
    return places, names, unflagged


def _rows(block: bytes, places: list[int], names: list[str]) -> np.ndarray:
    rows = np.zeros(len(places), dtype=ROW)
    if not places:
        return rows
    raw = np.frombuffer(block, dtype=np.uint8)
    for begin in range(0, len(places), 1 << 16):  # in parts, so that little is held twice
        part = slice(begin, begin + (1 << 16))
        at = np.asarray(places[part])[:, None] + np.arange(_ENTRY.itemsize)
        entries = raw[at].view(_ENTRY)[:, 0]
        if (entries["signature"] != _SIGNATURE).any():
            raise ValueError("its directory is damaged")
        for field in ROW.names or ():
            rows[field][part] = entries[field]
    wide = (rows["size"] == _WIDE) | (rows["packed"] == _WIDE) | (rows["offset"] == _WIDE)
    for row in np.flatnonzero(wide).tolist():
        _widen(rows, row, block, places[row])
    return rows


def _widen(rows: np.ndarray, row: int, block: bytes, place: int) -> None:
    """Takes the fields that did not fit from the entry's zip64 extra field, where they stand in this order."""
    of_name, of_extra, _ = _LENGTHS.unpack_from(block, place + 28)
    at = place + _ENTRY.itemsize + of_name
    end = at + of_extra
    while at + 4 <= end:
        kind, length = struct.unpack_from("<2H", block, at)
        at += 4
        if kind == 1:
            missing = [field for field in ("size", "packed", "offset") if rows[field][row] == _WIDE]
            if length < 8 * len(missing) or at + length > end:
                raise ValueError("a zip64 field is damaged")
            for number, field in enumerate(missing):
                rows[field][row] = min(struct.unpack_from("<Q", block, at + 8 * number)[0], 1 << 62)
            return
        at += length
