"""Archives come back as they were written, the same bytes each time, and the field's own reader understands them."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.data.samples import Annotation, Corruption, Samples, default_names
from stylegan2_msp.errors import UserError


def make_samples(count: int = 12, channels: int = 1, size: int = 16, classes: int = 3) -> Samples:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(classes), count).astype(np.float32)
    kinds = ["none", "blur", "noise"]
    return Samples(
        data=rng.integers(0, 256, (count, channels, size, size), dtype=np.uint8),
        names=default_names("images", count),
        classes=rng.integers(0, classes, count),
        class_names=[f"class {k}" for k in range(classes)],
        split="train",
        corruption=Corruption("imagenet-c", [kinds[i % 3] for i in range(count)], [i % 3 for i in range(count)]),
        annotation=Annotation(probs.max(axis=1), probs, b"a classifier's bytes"),
    )


def make_points(count: int = 20) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(
        data=rng.standard_normal((count, 2)).astype(np.float32),
        names=default_names("points", count),
        classes=np.arange(count) % 2,
        class_names=["upper", "lower"],
        split="test",
        annotation=Annotation(np.full(count, 0.75, dtype=np.float32)),
    )


def assert_same(found: Samples, expected: Samples) -> None:
    np.testing.assert_array_equal(found.data, expected.data)
    np.testing.assert_array_equal(found.classes, expected.classes)
    assert (found.names, found.class_names, found.split) == (expected.names, expected.class_names, expected.split)
    assert found.corruption == expected.corruption
    assert (found.annotation is None) == (expected.annotation is None)
    if found.annotation is not None and expected.annotation is not None:
        np.testing.assert_array_equal(found.annotation.u, expected.annotation.u)
        assert found.annotation.u.dtype == np.float32
        assert found.annotation.classifier_bytes == expected.annotation.classifier_bytes
        if expected.annotation.probs is not None:
            np.testing.assert_array_equal(found.annotation.probs, expected.annotation.probs)


@pytest.mark.parametrize("dest", ["data.zip", "data"])
@pytest.mark.parametrize("samples", [make_samples(), make_samples(channels=3, size=4), make_points()])
def test_everything_comes_back(tmp_path: Path, dest: str, samples: Samples) -> None:
    write_archive(tmp_path / dest, samples)
    archive = open_archive(tmp_path / dest)
    assert archive.annotated
    assert (archive.kind, len(archive)) == (samples.kind, len(samples))
    assert (archive.img_resolution, archive.img_channels) == (samples.img_resolution, samples.img_channels)
    assert_same(archive.load(), samples)


def test_labels_are_one_hot_and_msp(tmp_path: Path) -> None:
    samples = make_samples()
    write_archive(tmp_path / "data.zip", samples)
    labels = open_archive(tmp_path / "data.zip").labels()
    assert labels.dtype == np.float32
    for row, k, u in zip(labels, samples.classes, samples.annotation.u, strict=True):
        assert row.tolist() == [*(float(j == k) for j in range(3)), u]


@pytest.mark.parametrize(
    ("classes", "message"), [(np.arange(12) % 3, "classes but no uncertainty"), (None, "has no labels")]
)
def test_archive_without_msp_says_how_to_get_it(tmp_path: Path, classes: np.ndarray | None, message: str) -> None:
    samples = replace(make_samples(), classes=classes, annotation=None)
    write_archive(tmp_path / "data.zip", samples)
    archive = open_archive(tmp_path / "data.zip")
    assert_same(archive.load(), samples)
    assert not archive.annotated
    assert archive.num_classes == (0 if classes is None else 3)
    with pytest.raises(UserError, match=f"{message}; run .*annotate"):
        archive.labels()


def test_bytes_depend_on_the_samples_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "a.zip", make_samples())
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    write_archive(tmp_path / "b.zip", make_samples())
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    first, second = open_archive(tmp_path / "a.zip"), open_archive(tmp_path / "b.zip")
    assert first.content_sha256 == second.content_sha256


@pytest.mark.parametrize("dest", ["data.zip", "data"])
def test_hash_follows_the_content(tmp_path: Path, dest: str) -> None:
    samples = make_samples()
    changed = samples.data.copy()
    changed[3, 0, 5, 5] ^= 1
    write_archive(tmp_path / "1" / dest, samples)
    write_archive(tmp_path / "2" / dest, replace(samples, data=changed))
    assert open_archive(tmp_path / "1" / dest).content_sha256 != open_archive(tmp_path / "2" / dest).content_sha256


def reference_like(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What the field's dataset class makes of an archive: images [N, C, H, W] and labels as its networks get them.

    Every file whose suffix Pillow knows counts, sorted; labels become an array, integers when 1-D, floats when 2-D.
    """
    Image.init()
    with zipfile.ZipFile(path) as archive:
        files = sorted(n for n in archive.namelist() if os.path.splitext(n)[1].lower() in Image.EXTENSION)
        pixels = [np.array(Image.open(io.BytesIO(archive.read(name)))) for name in files]
        label_of = dict(json.loads(archive.read("dataset.json"))["labels"])
    labels = np.array([label_of[name] for name in files])
    images = np.stack([p[:, :, None] if p.ndim == 2 else p for p in pixels]).transpose(0, 3, 1, 2)
    return images, labels.astype({1: np.int64, 2: np.float32}[labels.ndim])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_fields_reader_sees_the_same(tmp_path: Path, channels: int) -> None:
    samples = make_samples(channels=channels)
    write_archive(tmp_path / "data.zip", samples)
    images, labels = reference_like(tmp_path / "data.zip")
    np.testing.assert_array_equal(images, samples.data)
    np.testing.assert_array_equal(labels, open_archive(tmp_path / "data.zip").labels())
    assert labels.dtype == np.float32


def test_the_fields_reader_sees_integer_classes(tmp_path: Path) -> None:
    samples = replace(make_samples(), annotation=None)
    write_archive(tmp_path / "data.zip", samples)
    np.testing.assert_array_equal(reference_like(tmp_path / "data.zip")[1], samples.classes)


def test_archives_of_other_tools_are_read(tmp_path: Path) -> None:
    """Deflated members, folder entries, JPEGs, upper-case suffixes, unsorted labels, files of no concern."""
    image = Image.fromarray(np.full((8, 8, 3), 200, dtype=np.uint8))
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b/", "")
        archive.writestr("readme.txt", "hello")
        for name, kind in (("b/2.JPG", "JPEG"), ("b/1.png", "PNG")):
            buffer = io.BytesIO()
            image.save(buffer, format=kind)
            archive.writestr(name, buffer.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [["b/2.JPG", 4], ["b/1.png", 0]]}))
    archive = open_archive(tmp_path / "data.zip")
    assert archive.names == ["b/1.png", "b/2.JPG"]
    assert archive.num_classes == 5
    samples = archive.load()
    assert samples.classes.tolist() == [0, 4]
    assert samples.names == default_names("images", 2)
    np.testing.assert_array_equal(samples.data, np.full((2, 3, 8, 8), 200))


def test_many_small_images_are_read_quickly(tmp_path: Path) -> None:
    """70,000 images of 32x32 must take under 12 s on one core; this allows 4,000 ten times their share."""
    samples = make_samples(count=4000, size=32)
    write_archive(tmp_path / "data.zip", samples)
    start = time.process_time()
    open_archive(tmp_path / "data.zip").load_images()
    assert time.process_time() - start < 12 * 4000 / 70_000 * 10


def test_images_are_chosen_by_positions_or_a_mask(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
    archive = open_archive(write_archive(tmp_path / "x.zip", Samples(data, default_names("images", 4)), progress=False))
    for rows in (np.array([3, 1]), np.array([False, True, False, True]), np.array([-1])):
        assert np.array_equal(archive.load_images(progress=False, rows=rows), data[rows])
