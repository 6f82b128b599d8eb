"""Whatever is wrong with an archive is said in one line; nothing but a UserError ever leaves the reader."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.errors import UserError

Files = dict[str, bytes]


def png(size: tuple[int, int] = (8, 8), mode: str = "L", value: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, format="PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def good_files() -> Files:
    """Four annotated images in two classes."""
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.0, 1.0]], dtype=np.float32)
    labels = [[f"{i}.png", [float(i % 2 == 0), float(i % 2), float(probs[i].max())]] for i in range(4)]
    manifest = {
        "labels": labels,
        "class_names": ["a", "b"],
        "split": "train",
        "uncertainty": {"name": "msp"},
        "probabilities": "probabilities.npy",
        "corruption": {"table": "t", "kind": ["none", "blur", "noise", "none"], "severity": [0, 1, 5, 0]},
        "classifier": {
            "file": "classifier.safetensors",
            "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        },
    }
    files = {f"{i}.png": png(value=i) for i in range(4)}
    return files | {
        "dataset.json": json.dumps(manifest).encode(),
        "probabilities.npy": npy(probs),
        "classifier.safetensors": b"hello",
    }


def zip_bytes(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def read_all(path: Path) -> None:
    archive = open_archive(path)
    archive.load_images(progress=False) if archive.kind == "images" else archive.load_points()
    if archive.annotated:
        archive.labels()


def message_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_all(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def with_manifest(change: Callable[[dict[str, Any]], None]) -> Files:
    files = good_files()
    manifest = json.loads(files["dataset.json"])
    change(manifest)
    return files | {"dataset.json": json.dumps(manifest).encode()}


def with_label(label: Any) -> Files:
    return with_manifest(lambda m: m["labels"].__setitem__(1, ["1.png", label]))


def with_all_labels(*labels: Any) -> Files:
    return with_manifest(lambda m: m.update(labels=[[f"{i}.png", label] for i, label in enumerate(labels)]))


def setter(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.update({key: value})


BAD_CONTENT: list[tuple[str, Files, str]] = [
    ("no images", {"readme.txt": b"hi"}, "holds no images"),
    ("undecodable", good_files() | {"2.png": b"not a png"}, r"'2.png': is no readable image"),
    ("cut png", good_files() | {"2.png": png((8, 8))[:45]}, r"'2.png': is a damaged image"),
    (
        "other size",
        good_files() | {"2.png": png((16, 16))},
        r"'2.png' has 1 channels, 16x16 pixels, expected.* 8x8",
    ),
    ("not square", good_files() | {"0.png": png((8, 16))}, r"'0.png': is 8x16, expected a square"),
    ("not a power of two", good_files() | {"0.png": png((28, 28))}, r"is 28x28, expected a square .*power of two"),
    ("too small", good_files() | {"0.png": png((2, 2))}, r"is 2x2, expected"),
    ("mixed channels", good_files() | {"2.png": png(mode="RGB")}, r"'2.png' has 3 channels.*expected 1 and"),
    ("transparency", good_files() | {"2.png": png(mode="RGBA")}, r"'2.png': has colour mode RGBA, expected L"),
    ("not JSON", good_files() | {"dataset.json": b"{'labels'"}, r"dataset.json: is not JSON"),
    ("not text", good_files() | {"dataset.json": b"\xff\xfe\xfa"}, r"dataset.json: is not JSON"),
    ("JSON list", good_files() | {"dataset.json": b"[]"}, r"dataset.json: holds a list, expected an object"),
    ("deep JSON", good_files() | {"dataset.json": b"[" * 500_000}, r"dataset.json: is nested too deeply"),
    ("huge JSON", good_files() | {"dataset.json": b" " * (18 << 20)}, r"'dataset.json' is absurdly large"),
    ("labels no list", with_manifest(setter("labels", {"0.png": 1})), r"labels: found a dict"),
    ("label missing", with_manifest(lambda m: m["labels"].pop()), r"3 labels for 4 images, none for '3.png'"),
    ("label twice", with_manifest(lambda m: m["labels"].append(m["labels"][0])), r"'0.png' comes twice"),
    ("label of nothing", with_manifest(lambda m: m["labels"].append(["9.png", 1])), r"'9.png' is not in the archive"),
    ("label no pair", with_manifest(lambda m: m["labels"].append("0.png")), r"labels\[4\]: is no pair"),
    ("label too short", with_label([1.0, 0.9]), r"label of '1.png': found 2 numbers, 3 elsewhere"),
    ("label mixed", with_label(1), r"label of '1.png': found 1;"),
    ("label text", with_label([1.0, "0", 0.9]), r"'1.png': holds something that is no number"),
    ("label bool", with_label([True, False, 0.9]), r"'1.png': holds something that is no number"),
    ("label NaN", with_label([1.0, 0.0, float("nan")]), r"'1.png': holds NaN"),
    ("label enormous", with_label([1.0, 0.0, 10**400]), r"number too large for a float"),
    ("not one-hot: two", with_label([1.0, 1.0, 0.9]), r"'1.png': its first 2 numbers are not one-hot"),
    ("not one-hot: none", with_label([0.0, 0.0, 0.9]), r"'1.png': its first 2 numbers are not one-hot"),
    ("not one-hot: soft", with_label([0.4, 0.6, 0.9]), r"'1.png': its first 2 numbers are not one-hot"),
    ("MSP too low", with_label([1.0, 0.0, 0.4]), r"'1.png': MSP 0.4 lies outside \[0.5, 1\]"),
    ("MSP too high", with_label([1.0, 0.0, 1.1]), r"'1.png': MSP 1.1 lies outside"),
    ("scalar float", with_all_labels(0.9, 0.8, 0.7, 0.6), r"'0.png': is the single number 0.9.*integer in silence"),
    ("scalar whole float", with_all_labels(0, 1, 1.0, 0), r"'2.png': is the single number 1.0"),
    ("negative class", with_all_labels(0, 1, -1, 0), r"label of '2.png': found -1"),
    ("enormous class", with_all_labels(0, 1, 10**30, 0), r"label of '2.png': found"),
    ("class names too few", with_manifest(setter("class_names", ["a"])), r"class_names: 1 names.* 2 classes"),
    ("class names no texts", with_manifest(setter("class_names", [1, 2])), r"class_names: found \[1, 2\]"),
    ("unknown measure", with_manifest(setter("uncertainty", {"name": "luck"})), r"uncertainty: found"),
    ("split no text", with_manifest(setter("split", 3)), r"split: found 3"),
    ("corruption short", with_manifest(lambda m: m["corruption"]["kind"].pop()), r"3 kinds and 4 severities"),
    ("corruption kind", with_manifest(lambda m: m["corruption"]["kind"].__setitem__(1, "fog")), r"corruption\[1\]"),
    ("severity", with_manifest(lambda m: m["corruption"]["severity"].__setitem__(1, 6)), r"corruption\[1\]"),
    ("probabilities missing", with_manifest(setter("probabilities", "p.npy")), r"'p.npy'.* is missing"),
    ("probabilities outside", with_manifest(setter("probabilities", "../p.npy")), r"'../p.npy'.* is missing"),
    ("probabilities cut", good_files() | {"probabilities.npy": npy(np.ones((4, 2), "<f4"))[:-3]}, r"is truncated"),
    (
        "probabilities shape",
        good_files() | {"probabilities.npy": npy(np.ones((3, 2), "<f4"))},
        r"expected float32 \[4, 2\]",
    ),
    ("probabilities pickled", good_files() | {"probabilities.npy": npy(np.array([[1, {}]], object))}, r"holds object"),
    (
        "probabilities of others",
        good_files() | {"probabilities.npy": npy(np.full((4, 2), 0.5, "<f4"))},
        r"MSP 0.5, its label says 0.9",
    ),
    ("classifier changed", good_files() | {"classifier.safetensors": b"bye"}, r"does not have the sha256"),
    ("points NaN", {"points.npy": npy(np.full((3, 2), np.nan, "<f4"))}, r"points.npy: holds NaN"),
    ("points 3-D", {"points.npy": npy(np.ones((3, 3), "<f4"))}, r"points.npy: holds float32 \[3, 3\]"),
    ("points header", {"points.npy": b"\x93NUMPY\x01\x00\x76\x00{" + b" " * 200}, r"points.npy: is not a .npy array"),
]


@pytest.mark.parametrize("form", ["zip", "folder"])
@pytest.mark.parametrize(
    ("files", "pattern"), [case[1:] for case in BAD_CONTENT], ids=[case[0] for case in BAD_CONTENT]
)
def test_bad_content(tmp_path: Path, files: Files, pattern: str, form: str) -> None:
    path = tmp_path / "data.zip"
    if form == "zip":
        path.write_bytes(zip_bytes(files))
    else:
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
    with pytest.raises(UserError, match=pattern):
        read_all(path)
    message_of(path)


def test_good_files_are_good(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(zip_bytes(good_files()))
    read_all(tmp_path / "data.zip")


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    assert "does not exist" in message_of(path)
    path.write_bytes(b"")
    assert "is an empty file" in message_of(path)
    path.write_bytes(b"GIF89a and so on" * 10)
    assert "is not a zip" in message_of(path)
    path.write_bytes(zip_bytes(good_files())[:-200])
    assert "truncated or damaged zip" in message_of(path)
    (tmp_path / "folder").mkdir()
    assert "holds no files" in message_of(tmp_path / "folder")


@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "C:\\evil.png", "a\\..\\..\\evil.png"]
)
def test_names_that_leave_the_archive(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(zip_bytes(good_files() | {name: png()}))
    assert "points outside the archive" in message_of(path)


def test_a_zip_of_windows_powershell_is_named(tmp_path: Path) -> None:
    """It was said to point outside the archive; its owner had made it of photographs a minute before."""
    path = tmp_path / "data.zip"
    path.write_bytes(zip_bytes(good_files() | {"cat/0.png": png()}).replace(b"cat/0.png", b"cat\\0.png"))
    assert "backslashes between its folders, as Compress-Archive" in message_of(path)


def test_duplicate_members(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(zip_bytes(good_files()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("1.png", png(value=9))
    assert "'1.png' comes twice" in message_of(path)


def test_zip_bomb_by_declared_size(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", bytes(100 << 20))
    assert "'0.png' is absurdly large" in message_of(path)


def test_zip_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    """The directory declares 1,000 bytes for what unpacks to 50 MiB: no more than a little is ever unpacked."""
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", bytes(50 << 20))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 50 << 20), struct.pack("<I", 1000)))
    assert "unpacks to another size" in message_of(path)


def test_image_bomb(tmp_path: Path) -> None:
    """A small PNG of 30,000 x 30,000 pixels is refused by its header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    bomb = png()[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + png()[33:]
    path = tmp_path / "data.zip"
    path.write_bytes(zip_bytes({"0.png": bomb}))
    assert "'0.png'" in message_of(path)


def test_encrypted_member(tmp_path: Path) -> None:
    data = bytearray(zip_bytes({"0.png": png()}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "data.zip").write_bytes(data)
    assert "is encrypted" in message_of(tmp_path / "data.zip")


def test_archive_changed_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(zip_bytes(good_files()))
    archive = open_archive(path)
    path.write_bytes(b"PK\x03\x04" * 3)
    with pytest.raises(UserError, match="is damaged"):
        archive.load_images()


GOOD = zip_bytes(good_files())
POINTS = zip_bytes({"points.npy": npy(np.ones((3, 2), "<f4")), "dataset.json": b'{"labels": null}'})
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
QUICK = settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def opens_or_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        read_all(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is right)


@QUICK
@given(
    base=st.sampled_from([GOOD, POINTS]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 6)), max_size=5),
    keep=st.floats(0.3, 1) | st.just(1.0),
)
@example(base=GOOD, edits=[], keep=1.0)
def test_mutated_bytes(tmp_path: Path, base: bytes, edits: list[tuple[float, bytes, int]], keep: float) -> None:
    data = bytearray(base)
    for place, new, removed in edits:
        at = int(place * len(data))
        data[at : at + removed] = new
    opens_or_is_refused(tmp_path / "data.zip", bytes(data[: int(keep * len(data))]))


@QUICK
@given(
    name=st.sampled_from(sorted(good_files())),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 6)), min_size=1),
)
def test_mutated_members(tmp_path: Path, name: str, edits: list[tuple[float, bytes, int]]) -> None:
    """Damage inside a member whose checksum is right again, so that it reaches the decoders."""
    files = good_files()
    data = bytearray(files[name])
    for place, new, removed in edits:
        at = int(place * len(data))
        data[at : at + removed] = new
    opens_or_is_refused(tmp_path / "data.zip", zip_bytes(files | {name: bytes(data)}))


@QUICK
@given(path=st.lists(st.integers(0, 7), min_size=1, max_size=4), value=JSON_VALUES)
def test_mutated_manifest(tmp_path: Path, path: list[int], value: Any) -> None:
    """Any value put anywhere into dataset.json."""
    files = good_files()
    manifest = json.loads(files["dataset.json"])
    node: Any = manifest
    for depth, step in enumerate(path):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[step % len(keys)]
        if depth == len(path) - 1 or not isinstance(node[key], (dict, list)) or not node[key]:
            node[key] = value
            break
        node = node[key]
    opens_or_is_refused(tmp_path / "data.zip", zip_bytes(files | {"dataset.json": json.dumps(manifest).encode()}))


@QUICK
@given(name=st.text(max_size=20))
def test_any_member_name(tmp_path: Path, name: str) -> None:
    try:
        data = zip_bytes(good_files() | {name: png()})
    except (UnicodeEncodeError, ValueError):
        return
    opens_or_is_refused(tmp_path / "data.zip", data)
