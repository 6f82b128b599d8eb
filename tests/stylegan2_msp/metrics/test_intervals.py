"""Intervals cover the truth as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stylegan2_msp.metrics.intervals import bootstrap, interval_of_mean, interval_of_share, jackknife
from stylegan2_msp.metrics.scores import mae, spearman

TRIALS = 120


def covered(make) -> float:
    hits = [low <= truth <= high for (low, high), truth in (make(np.random.default_rng(i)) for i in range(TRIALS))]
    return float(np.mean(hits))


def test_bootstrap_of_the_mean_error_covers_its_truth():
    def once(rng):
        u = rng.uniform(0.3, 1, 300)
        v = u + rng.normal(0, 0.1, 300)
        found = bootstrap(lambda r: {"mae": mae(u[r], v[r])}, 300, int(rng.integers(1 << 30)))
        return found["mae"], 0.1 * math.sqrt(2 / math.pi)

    assert 0.88 < covered(once) <= 1


def test_interval_of_a_mean_covers_its_truth():
    def once(rng):
        return interval_of_mean(rng.exponential(size=200), int(rng.integers(1 << 30))), 1.0

    assert 0.88 < covered(once) <= 1


@pytest.mark.parametrize("count", [1, 3, 12])
def test_interval_of_a_share_covers_its_truth_even_with_few_items(count):
    def once(rng):
        return interval_of_share(rng.binomial(count, 0.3) / count, count), 0.3

    assert 0.88 < covered(once) <= 1


def test_interval_of_a_share_is_wilsons():
    assert interval_of_share(0.0, 1) == pytest.approx((0, 0.7935), abs=1e-4)
    assert interval_of_share(1.0, 1) == pytest.approx((0.2065, 1), abs=1e-4)
    assert interval_of_share(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)


def test_interval_of_a_weighted_sum_of_shares_adds_distances_as_errors_are():
    """Zou, Huang and Zhang 2009: value -+ sqrt(sum_i w_i^2 (p_i - limit_i)^2) with Wilson's limits of each share."""
    shares, counts, weights = (0.9, 0.2, 0.6), (10, 25, 4), (0.5, 0.2, 0.3)
    limits = [interval_of_share(p, n) for p, n in zip(shares, counts, strict=True)]
    value = sum(w * p for w, p in zip(weights, shares, strict=True))
    rows = list(zip(weights, shares, limits, strict=True))
    low = value - math.sqrt(sum((w * (p - below)) ** 2 for w, p, (below, _) in rows))
    high = value + math.sqrt(sum((w * (above - p)) ** 2 for w, p, (_, above) in rows))
    assert interval_of_share(shares, counts, weights) == pytest.approx((low, high))


def test_bootstrap_intervals_hold_the_middle_95_per_cent_of_the_resamples():
    values = iter(range(200))
    (found,) = bootstrap(lambda r: {"n": float(next(values))}, 10).values()
    assert found == pytest.approx((0.025 * 199, 0.975 * 199))


def test_interval_of_a_mean_of_shares_covers_its_truth():
    """Strata of very different sizes that weigh alike; with one of them it is that of a share."""
    truths, counts = np.array([0.2, 0.5, 0.8, 0.99]), np.array([2, 5, 40, 400])

    def once(rng):
        return interval_of_share(rng.binomial(counts, truths) / counts, counts, 1 / 4), truths.mean()

    assert 0.88 < covered(once) <= 1
    assert interval_of_share([0.3, 0.9], [10, 1], [1, 0]) == pytest.approx(interval_of_share(0.3, 10))


def test_jackknife_of_the_variance_covers_its_truth():
    def once(rng):
        x = rng.normal(0, 2, 400)
        return jackknife(lambda r: float(x[r].var()), 400), 4.0

    assert 0.88 < covered(once) <= 1


def test_neighbours_of_one_latent_are_drawn_together():
    """Eight equal copies of each value: items that are drawn alone would give an interval that is far too narrow."""
    x = np.repeat(np.random.default_rng(0).normal(size=100), 8)
    low, high = bootstrap(lambda r: {"mean": x[r].mean()}, 800, groups=8)["mean"]
    narrow = bootstrap(lambda r: {"mean": x[r].mean()}, 800)["mean"]
    assert high - low > 2 * (narrow[1] - narrow[0])
    assert high - low == pytest.approx(2 * 1.96 * x.std() / 10, rel=0.25)
    seen = []
    bootstrap(lambda r: seen.append(r) or {"n": 0.0}, 24, groups=8, resamples=3)
    assert all(np.array_equal(r.reshape(-1, 8) % 8, np.tile(np.arange(8), (3, 1))) for r in seen)


def test_more_items_narrow_it_and_the_same_seed_repeats_it():
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)
    low, high = interval_of_mean(x)
    few = interval_of_mean(x[:100])
    assert high - low < 0.5 * (few[1] - few[0])
    assert interval_of_mean(x) == (low, high)


def test_undefined_statistics_have_undefined_intervals():
    u, v = np.random.default_rng(0).uniform(size=50), np.ones(50)
    assert all(math.isnan(x) for x in bootstrap(lambda r: {"s": spearman(u[r], v[r])}, 50, resamples=5)["s"])
    assert bootstrap(lambda r: {"s": 1.0}, 0) == {}
    assert all(math.isnan(x) for x in (*interval_of_mean([]), *jackknife(lambda r: 1.0, 5)))
