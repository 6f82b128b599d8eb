"""Figures of merit against scipy, against their formulas written out, and on answers that are known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stylegan2_msp.metrics import scores as m

RNG = np.random.default_rng(1)
LEVELS = np.linspace(0.3, 1, 8)
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=25)


def concordance_by_hand(u, v):
    n = len(u)
    mean_u, mean_v = sum(u) / n, sum(v) / n
    covariance = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / n
    var_u = sum((a - mean_u) ** 2 for a in u) / n
    var_v = sum((b - mean_v) ** 2 for b in v) / n
    return 2 * covariance / (var_u + var_v + (mean_u - mean_v) ** 2)


def kendall_by_hand(u, v):
    """Tau-b from all pairs."""
    agree = disagree = only_u = only_v = 0
    for i in range(len(u)):
        for j in range(i):
            a, b = np.sign(u[i] - u[j]), np.sign(v[i] - v[j])
            agree += a * b > 0
            disagree += a * b < 0
            only_u += a == 0 and b != 0
            only_v += b == 0 and a != 0
    both = agree + disagree
    return (agree - disagree) / math.sqrt((both + only_u) * (both + only_v))


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_correlations_with_ties(pairs):
    u, v = (np.array(side, float) / 6 for side in zip(*pairs, strict=True))
    if np.ptp(u) == 0 or np.ptp(v) == 0:
        assert math.isnan(m.spearman(u, v))
        assert math.isnan(m.kendall(u, v))
        return
    assert m.spearman(u, v) == pytest.approx(stats.spearmanr(u, v).statistic, abs=1e-12)
    assert m.kendall(u, v) == pytest.approx(kendall_by_hand(u, v), abs=1e-12)
    assert m.concordance(u, v) == pytest.approx(concordance_by_hand(u, v), abs=1e-12)
    assert m.mean_ranks(u) == pytest.approx(stats.rankdata(u))


def test_perfect_answers():
    u = np.repeat(LEVELS, 20)
    assert m.mae(u, u) == m.rmse(u, u) == m.bias(u, u) == 0
    assert m.spearman(u, u) == pytest.approx(1)
    assert m.kendall(u, u) == pytest.approx(1)
    assert m.concordance(u, u) == pytest.approx(1)
    assert m.coverage(u, u, u, 0.01, 1.0) == 1
    assert m.calibration_gap(m.calibration_curve(u, u, m.equal_mass(u, 10))) == pytest.approx(0, abs=1e-12)


def test_blind_answers():
    u = np.repeat(LEVELS, 20)
    v = np.full(u.size, 0.65)
    assert m.mae(u, v) == pytest.approx(np.abs(LEVELS - 0.65).mean())
    assert m.rmse(u, v) == pytest.approx(np.sqrt(np.square(LEVELS - 0.65).mean()))
    assert m.concordance(u, v) == pytest.approx(0, abs=1e-12)
    assert math.isnan(m.spearman(u, v))
    assert m.coverage(u, u, v, 0.0501, 0.5) == 2 / 8  # only the levels 0.6 and 0.7
    assert m.calibration_gap(m.calibration_curve(u, v, m.equal_width(u, 0.25, 1.05, 8))) == pytest.approx(m.mae(u, v))
    assert m.monotonicity(u.reshape(20, 8), v.reshape(20, 8)).tolist() == [0] * 20


def test_inverted_answers():
    u = np.tile(LEVELS, 20)
    v = 1.3 - u
    assert m.spearman(u, v) == pytest.approx(-1)
    assert m.kendall(u, v) == pytest.approx(-1)
    assert m.concordance(u, v) == pytest.approx(-1)
    assert m.bias(u, v) == pytest.approx(0)
    assert m.mae(u, v) == pytest.approx(np.abs(1.3 - 2 * LEVELS).mean())
    assert m.monotonicity(u.reshape(20, 8), v.reshape(20, 8)) == pytest.approx(-1)


def test_noise_has_the_gap_of_its_offset_and_not_of_its_spread():
    u = RNG.uniform(0.3, 1, 20_000)
    v = u + 0.07 + RNG.normal(0, 0.1, u.size)
    for bins in (m.equal_width(u, 0.3, 1, 10), m.equal_mass(u, 10)):
        assert m.calibration_gap(m.calibration_curve(u, v, bins)) == pytest.approx(0.07, abs=0.005)
    assert m.mae(u, v) > 0.09


def test_calibration_by_hand():
    u = np.array([0.1, 0.2, 0.6, 0.9])
    v = np.array([0.2, 0.2, 0.5, 0.5])
    low, high = m.calibration_curve(u, v, m.equal_width(u, 0, 1, 2))
    assert (low.asked, low.answered, low.count) == pytest.approx((0.15, 0.2, 2))
    assert (high.asked, high.answered, high.count) == pytest.approx((0.75, 0.5, 2))
    assert m.calibration_gap([low, high]) == pytest.approx(0.5 * 0.05 + 0.5 * 0.25)
    assert [rows.tolist() for rows in m.equal_mass(u[::-1], 2)] == [[2, 3], [0, 1]]


def test_bins_of_equal_width_divide_the_range_and_not_what_lies_below_it():
    u = RNG.uniform(0.25, 1.02, 400)
    for b, rows in enumerate(m.equal_width(u, 0.3, 1.0, 7)):
        low, high = (-math.inf if b == 0 else 0.3 + 0.1 * b), (math.inf if b == 6 else 0.4 + 0.1 * b)
        assert rows.tolist() == [i for i, value in enumerate(u) if low <= value < high]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.integers(1, 12))
def test_bins_hold_every_item_once(values, count):
    u = np.array(values)
    for bins in (m.equal_width(u, 0, 1, count), m.equal_mass(u, count)):
        assert sorted(np.concatenate(bins).tolist()) == list(range(len(u)))
    sizes = [len(rows) for rows in m.equal_mass(np.unique(u), count)]
    assert max(sizes) - min(sizes) <= 1
    bin_of = {row: b for b, rows in enumerate(m.equal_mass(u, count)) for row in rows.tolist()}
    assert len({(float(u[row]), b) for row, b in bin_of.items()}) == len(np.unique(u))  # equal values stay together


@pytest.mark.parametrize(("low", "high"), [(0.1, 1.0), (0.0, 0.7), (0.3, 1.0)])
def test_levels_of_a_grid_are_not_taken_together(low, high):
    """Off by 0.1 up and down in turn: a bin of two levels would let the two cancel; levels pass through float32."""
    levels = np.linspace(low, high, 8).astype(np.float32).astype(np.float64)
    u = np.repeat(levels, 5)
    v = u + np.repeat(0.1 * (-1.0) ** np.arange(8), 5)
    for lowest in (0.0, 0.1, 0.3):
        assert m.calibration_gap(m.calibration_curve(u, v, m.equal_mass(u, 10))) == pytest.approx(0.1)
        assert m.calibration_gap(m.calibration_curve(u, v, m.equal_width(u, lowest, 1.0, 10))) == pytest.approx(0.1)


def test_monotonicity_is_spearman_of_every_latent():
    u = np.tile(LEVELS, (6, 1))
    v = RNG.normal(size=(6, 8)).round(1)
    assert m.monotonicity(u, v) == pytest.approx([stats.spearmanr(a, b).statistic for a, b in zip(u, v, strict=True)])


def test_small_figures_by_hand():
    u, v = [0.5, 0.7, 1.0], [0.6, 0.6, 1.0]
    assert m.mae(u, v) == pytest.approx(0.2 / 3)
    assert m.rmse(u, v) == pytest.approx(math.sqrt(0.02 / 3))
    assert m.bias(u, v) == pytest.approx(0)
    assert m.within(u, v, 0.05) == pytest.approx(1 / 3)
    assert m.within([0.5, 0.5], [0.75, 0.0], 0.25) == 0.5  # as far as that is still within
    assert m.class_agreement([1, 2, 3, 3], [1, 2, 0, 3]) == 0.75
    assert m.coverage([0, 0, 1], u, v, 0.11, 0.6) == 1
    assert m.coverage([0, 0, 1], u, v, 0.05, 0.6) == 0.5


def test_nothing_is_undefined_and_unequal_sides_are_refused():
    for figure in (m.mae, m.rmse, m.bias, m.spearman, m.kendall, m.concordance, m.class_agreement):
        assert math.isnan(figure([], []))
    assert math.isnan(m.within([], [], 0.1))
    assert math.isnan(m.spearman([0.5], [0.6]))
    with pytest.raises(ValueError, match="equally long"):
        m.mae([1.0], [1.0, 0.5])


def test_per_level_statistics():
    u = np.float32([0.7] * 5 + [0.3] * 3)
    v = np.array([0.1, 0.2, 0.3, 0.4, 1.0, 0.5, 0.5, 0.5])
    low, high = m.per_level(u, v)
    assert (low.level, low.count, low.mean, low.median) == (0.3, 3, 0.5, 0.5)
    assert (high.level, high.count) == (0.7, 5)
    assert high.mean == pytest.approx(0.4)
    assert high.median == pytest.approx(0.3)
    assert (high.q25, high.q75) == pytest.approx((0.2, 0.4))
    assert (high.q10, high.q90) == pytest.approx((0.14, 0.76))


def test_a_nan_makes_every_figure_nan():
    u = np.linspace(0, 1, 20)
    v = np.where(u == u[7], np.nan, u)
    for figure in (m.mae, m.rmse, m.bias, m.spearman, m.kendall, m.concordance):
        assert math.isnan(figure(u, v)), figure
        assert math.isnan(figure(v, u)), figure


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int8])
def test_whole_numbers_do_not_wrap_around(dtype):
    u, v = np.array([100, 2, 1], dtype), np.array([1, 2, 127], dtype)
    assert (m.mae(u, v), m.bias(u, v)) == (75, 9)
    assert m.rmse(u, v) == pytest.approx(math.sqrt((99**2 + 126**2) / 3))
    assert m.within(u, v, 99) == pytest.approx(2 / 3)
    assert m.concordance(u, v) == pytest.approx(concordance_by_hand(u.tolist(), v.tolist()))
