"""Moons and the embedded digits: shapes, splits, what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from stylegan2_msp.data.sources.toy import digits, moons


def test_moons_lie_on_two_half_circles() -> None:
    samples = moons(2000, noise=0.0, seed=0)
    assert samples.data.shape == (2000, 2)
    assert samples.data.dtype == np.float32
    upper, lower = (samples.data[samples.classes == k] for k in (0, 1))
    assert len(upper) == len(lower) == 1000
    np.testing.assert_allclose(np.hypot(upper[:, 0], upper[:, 1]), 1, atol=1e-6)
    np.testing.assert_allclose(np.hypot(lower[:, 0] - 1, lower[:, 1] - 0.5), 1, atol=1e-6)


def test_moons_noise_is_its_standard_deviation() -> None:
    clean, noisy = moons(20_000, 0.0, 0), moons(20_000, 0.3, 0)
    assert np.isclose(noisy.data.var(), clean.data.var() + 0.09, rtol=0.03)


def test_moons_splits_are_other_draws() -> None:
    train, again, test, other = moons(500, 0.3, 0), moons(500, 0.3, 0), moons(500, 0.3, 0, "test"), moons(500, 0.3, 1)
    np.testing.assert_array_equal(train.data, again.data)
    rows = {tuple(row) for row in train.data.tolist()}
    assert not rows & {tuple(row) for row in test.data.tolist()}
    assert not rows & {tuple(row) for row in other.data.tolist()}
    assert (train.split, test.split) == ("train", "test")


def test_digits_are_scikit_learns_enlarged() -> None:
    samples, known = digits("all"), load_digits()
    assert samples.data.shape == (1797, 1, 16, 16)
    np.testing.assert_array_equal(samples.classes, known.target)
    halved = samples.data[:, 0].reshape(1797, 8, 2, 8, 2).mean(axis=(2, 4)) * (16 / 255)
    for found, image in zip(halved[:200], known.images[:200], strict=True):
        assert np.corrcoef(found.ravel(), image.ravel())[0, 1] > 0.97


def test_digits_splits_are_stratified_and_share_nothing() -> None:
    train, test = digits("train"), digits("test")
    assert len(train) + len(test) == 1797
    pixels = {image.tobytes() for image in train.data}
    assert not pixels & {image.tobytes() for image in test.data}
    shares = np.bincount(test.classes) / np.bincount(digits("all").classes)
    assert (np.abs(shares - 0.2) < 0.01).all()


def test_digits_subset_depends_on_the_seed_but_never_leaves_its_split() -> None:
    train = {image.tobytes() for image in digits("train").data}
    first, other = digits("train", 100, seed=0), digits("train", 100, seed=1)
    assert len(first) == 100
    assert not np.array_equal(first.data, other.data)
    assert {image.tobytes() for image in (*first.data, *other.data)} <= train


def test_a_split_that_there_is_not_is_no_other_one() -> None:
    with pytest.raises(ValueError, match="split must be 'train', 'test' or 'all', found 'val'"):
        digits("val")
