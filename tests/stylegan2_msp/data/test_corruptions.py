"""The paper's corruption recipe: shares, severities, and the filters against SciPy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stylegan2_msp.data.corruptions import TABLES, corrupt_gaussian, gaussian_blur, gaussian_noise
from stylegan2_msp.data.samples import Annotation, Samples, default_names
from stylegan2_msp.errors import UserError


def grey(count: int = 4001, size: int = 16, value: int | None = None) -> Samples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 1, size, size), dtype=np.uint8)
    if value is not None:
        images[:] = value
    return Samples(images, default_names("images", count), split="train")


@pytest.mark.parametrize("sigma", [*TABLES["imagenet-c"].blur, *TABLES["cifar-c"].blur])
@pytest.mark.parametrize("shape", [(3, 1, 32, 32), (2, 3, 16, 16), (1, 1, 4, 4)])
def test_blur_is_scipys(sigma: float, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    expected = gaussian_filter(images.astype(np.float64), (0, 0, sigma, sigma), mode="nearest", truncate=4.0)
    assert np.abs(gaussian_blur(images, sigma) - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("sigma", TABLES["imagenet-c"].noise)
def test_noise_has_its_standard_deviation(sigma: float) -> None:
    """On mid-grey, clipping at 0 and 1 included."""
    images = np.full((200, 1, 32, 32), 128, dtype=np.uint8)
    noisy = gaussian_noise(images, sigma, np.random.default_rng(0))
    draws = np.clip(128 / 255 + sigma * np.random.default_rng(1).standard_normal(200_000), 0, 1)
    assert noisy.std() / 255 == pytest.approx(draws.std(), rel=0.01)
    assert noisy.mean() / 255 == pytest.approx(128 / 255, abs=0.005)


def test_tables_are_the_published_rows() -> None:
    """ImageNet-C and CIFAR-10-C, Hendrycks and Dietterich 2019."""
    assert TABLES["imagenet-c"].noise == (0.08, 0.12, 0.18, 0.26, 0.38)
    assert TABLES["imagenet-c"].blur == (1, 2, 3, 4, 6)
    assert TABLES["cifar-c"].noise == (0.04, 0.06, 0.08, 0.09, 0.10)
    assert TABLES["cifar-c"].blur == (0.4, 0.6, 0.7, 0.8, 1)


def test_exactly_half_by_blur_or_noise_at_uniform_severity() -> None:
    done = corrupt_gaussian(grey(), "imagenet-c", seed=0).corruption
    assert done is not None
    kinds = Counter(done.kind)
    assert kinds["none"] == 2001
    assert kinds["blur"] + kinds["noise"] == 2000
    assert abs(kinds["blur"] - 1000) < 4 * np.sqrt(2000 / 4)
    levels = Counter(done.severity)
    assert levels[0] == 2001
    assert set(levels) == set(range(6))
    assert all(abs(levels[k] - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8) for k in range(1, 6))


@pytest.mark.parametrize("table", sorted(TABLES))
def test_each_image_is_what_its_record_says(table: str) -> None:
    samples = grey(300)
    done = corrupt_gaussian(samples, table, seed=3)
    assert done.corruption is not None
    assert done.corruption.table == table
    noisy_std: dict[int, list[float]] = {level: [] for level in range(1, 6)}
    for before, after, kind, level in zip(
        samples.data, done.data, done.corruption.kind, done.corruption.severity, strict=True
    ):
        if kind == "none":
            np.testing.assert_array_equal(after, before)
        elif kind == "blur":
            np.testing.assert_array_equal(after, gaussian_blur(before[None], TABLES[table].blur[level - 1])[0])
        else:
            inner = (before > 80) & (before < 175)
            noisy_std[level].append(float((after.astype(float) - before)[inner].std() / 255))
    rng = np.random.default_rng(1)
    inner = rng.uniform(81, 174, 100_000) / 255
    for level, sigma in enumerate(TABLES[table].noise, 1):
        clipped = np.clip(inner + sigma * rng.standard_normal(inner.shape), 0, 1)
        assert np.mean(noisy_std[level]) == pytest.approx((clipped - inner).std(), rel=0.05)


def test_noise_covers_the_padding() -> None:
    done = corrupt_gaussian(grey(200, value=0), "imagenet-c", seed=0)
    assert done.corruption is not None
    noisy = done.data[np.array(done.corruption.kind) == "noise"]
    assert (noisy[:, 0, 0, :] > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_seed_and_split_settle_everything() -> None:
    samples = grey(200)
    first, again = (corrupt_gaussian(samples, "imagenet-c", seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.data, again.data)
    assert first.corruption == again.corruption
    assert corrupt_gaussian(samples, "imagenet-c", seed=6).corruption != first.corruption
    assert corrupt_gaussian(replace(samples, split="test"), "imagenet-c", seed=5).corruption != first.corruption


def test_points_and_corrupted_images_are_refused() -> None:
    points = Samples(np.zeros((4, 2), dtype=np.float32), default_names("points", 4))
    with pytest.raises(UserError, match="found 2-D points"):
        corrupt_gaussian(points, "imagenet-c", 0)
    with pytest.raises(UserError, match="corrupted already"):
        corrupt_gaussian(corrupt_gaussian(grey(10), "imagenet-c", 0), "imagenet-c", 0)


def test_corrupted_images_have_no_annotation_of_clean_ones() -> None:
    samples = replace(grey(10), classes=np.arange(10) % 2, annotation=Annotation(np.full(10, 0.9, np.float32)))
    assert corrupt_gaussian(samples, "imagenet-c", 0).annotation is None
