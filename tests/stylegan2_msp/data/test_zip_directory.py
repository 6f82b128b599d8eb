"""The directory that is read as arrays says what zipfile says of the same zip."""

from __future__ import annotations

import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_msp.data.members import Members
from stylegan2_msp.data.zip_directory import UTF8, read_directory

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=12)


def found(data: bytes) -> list[tuple[object, ...]]:
    directory = read_directory(io.BytesIO(data))
    return [(name, *row.item()) for name, row in zip(directory.names, directory.rows, strict=True)]


def by_zipfile(data: bytes) -> list[tuple[object, ...]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.orig_filename)
    return [
        (i.orig_filename, i.flag_bits, i.compress_type, i.CRC, i.compress_size, i.file_size, i.header_offset)
        for i in infos
    ]


def make(files: dict[str, bytes], before: bytes = b"", comment: bytes = b"", wide: bool = False) -> bytes:
    stream = io.BytesIO()
    stream.write(before)
    with zipfile.ZipFile(stream, "a" if before else "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = comment
        for number, (name, content) in enumerate(files.items()):
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            info.comment = b"of the member" * (number % 3)
            with archive.open(info, "w", force_zip64=wide) as member:
                member.write(content)
    return stream.getvalue()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    files=st.dictionaries(NAMES, st.binary(max_size=40), max_size=6),
    before=st.sampled_from([b"", b"#!/bin/sh\n" * 3]),
    comment=st.binary(max_size=30),
    wide=st.booleans(),
)
def test_the_same_as_zipfile(files: dict[str, bytes], before: bytes, comment: bytes, wide: bool) -> None:
    data = make(files, before, comment.replace(b"PK", b""), wide)
    assert found(data) == by_zipfile(data)


def without_flag(data: bytes, name: bytes) -> bytes:
    """The zip as `zip -r` of Info-ZIP writes it: the bytes of the name, no flag for UTF-8."""
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.index(signature)
        while name not in data[place : place + 46 + len(name)]:
            place = data.index(signature, place + 4)
        (before,) = struct.unpack_from("<H", data, place + flags)
        data = data[: place + flags] + struct.pack("<H", before & ~UTF8) + data[place + flags + 2 :]
    return data


def test_names_in_utf_8_need_no_flag(tmp_path: Path) -> None:
    data = without_flag(make({"a.txt": b"1", "Größe/三角形.txt": b"2"}), "Größe/三角形.txt".encode())
    assert "Größe/三角形.txt" not in [row[0] for row in by_zipfile(data)]  # zipfile reads cp437
    (tmp_path / "x.zip").write_bytes(data)
    members = Members(tmp_path / "x.zip")
    assert members.names == ["Größe/三角形.txt", "a.txt"]
    with members.reading() as read:
        assert [read(name, 10) for name in members.names] == [b"2", b"1"]


def test_names_in_cp437_are_read_as_before(tmp_path: Path) -> None:
    data = make({"Groesse.txt": b"2"}).replace(b"Groesse.txt", b"Gr\x94\xe1er1.txt")
    (tmp_path / "x.zip").write_bytes(data)
    members = Members(tmp_path / "x.zip")
    assert members.names == ["Größer1.txt"] == [row[0] for row in by_zipfile(data)]
    with members.reading() as read:
        assert read("Größer1.txt", 10) == b"2"


def test_more_members_than_16_bits_count() -> None:
    data = make({f"{i:06d}": b"" for i in range(70_000)})
    assert found(data) == by_zipfile(data)


def test_offsets_of_a_zip_over_4_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    """zipfile is made to take 300 bytes for the most that 32 bits hold, so that it writes wide fields of every kind."""
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 300)
        data = make({f"{i}": bytes(50 * i) for i in range(20)}, wide=True)
    assert struct.pack("<2H", 1, 24) in data
    assert found(data) == by_zipfile(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 6)), max_size=4),
    keep=st.floats(0.2, 1),
    wide=st.booleans(),
)
def test_damage_is_a_value_error(edits: list[tuple[float, bytes, int]], keep: float, wide: bool) -> None:
    data = bytearray(make({"a.png": b"1", "b/c.png": b"22", "d": b"333"}, wide=wide))
    for place, new, removed in edits:
        at = int(place * len(data))
        data[at : at + removed] = new
    with suppress(ValueError):
        read_directory(io.BytesIO(bytes(data[: int(keep * len(data))])))
