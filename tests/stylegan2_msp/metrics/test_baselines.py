"""Baselines on pools that are known."""

from __future__ import annotations

import numpy as np
import pytest

from stylegan2_msp.metrics.baselines import nearest_real, rejection, shuffled
from stylegan2_msp.metrics.observing import Items
from stylegan2_msp.metrics.scores import mae, spearman

RNG = np.random.default_rng(0)


def items(classes, asked, answered=None, predicted=None):
    classes, asked = np.asarray(classes), np.asarray(asked, float)
    answered = asked if answered is None else np.asarray(answered, float)
    return Items(classes, asked, classes if predicted is None else np.asarray(predicted), answered)


def test_shuffling_keeps_the_answers_and_loses_the_match():
    u = np.repeat(np.linspace(0.3, 1, 8), 250)
    found = shuffled(items(np.zeros(2000, int), u), seed=1)
    assert np.array_equal(found.answered, u)
    assert sorted(found.asked) == pytest.approx(u)
    assert abs(spearman(found.asked, found.answered)) < 0.08
    assert mae(found.asked, found.answered) == pytest.approx(np.abs(u[:, None] - u[None]).mean(), abs=0.02)


def test_the_nearest_real_item_by_brute_force():
    reals = items(RNG.integers(0, 3, 200), RNG.uniform(0.3, 1, 200), predicted=RNG.integers(0, 3, 200))
    wanted = items(RNG.integers(0, 3, 60), RNG.uniform(0.3, 1, 60))
    found = nearest_real(wanted, reals)
    for i in range(60):
        own = np.flatnonzero(reals.classes == wanted.classes[i])
        best = own[np.abs(reals.asked[own] - wanted.asked[i]).argmin()]
        assert found.answered[i] == reals.asked[best]
        assert found.predicted[i] == reals.predicted[best]


@pytest.mark.parametrize(
    ("own", "wanted", "found"), [([0.7], 0.3, 0.7), ([0.4, 0.6], 0.9, 0.6), ([0.4, 0.6], 0.1, 0.4)]
)
def test_the_nearest_real_item_at_the_ends(own, wanted, found):
    assert nearest_real(items([0], [wanted]), items([0] * len(own), own)).answered.tolist() == [found]


def test_rejection_costs_one_over_the_share_that_fits():
    """A pool whose answers are uniform in [0, 1]: a request in the middle is met by a tenth of it."""
    pool = items(np.zeros(20_000, int), np.ones(20_000), RNG.uniform(0, 1, 20_000))
    found = rejection(items(np.zeros(1500, int), np.full(1500, 0.5)), pool, eps=0.05)
    assert found.accepted.all()
    assert np.abs(found.answered - 0.5).max() <= 0.05
    assert found.cost() == pytest.approx(10, rel=0.1)
    assert found.made.min() == 1


def test_a_class_without_reals_has_no_nearest_one():
    reals = items([0, 0], [0.4, 0.9])
    found = nearest_real(items([0, 1, 0], [0.5, 0.5, 0.8]), reals)
    assert found.classes.tolist() == [0, 0]
    assert found.answered.tolist() == [0.4, 0.9]


def test_rejection_that_finds_nothing_says_so_and_gives_the_nearest():
    pool = items([0, 0, 1, 1], np.ones(4), [0.9, 0.8, 0.5, 0.95])
    found = rejection(items([0, 0, 1], [0.3, 0.81, 0.5]), pool, eps=0.05)
    assert found.accepted.tolist() == [False, True, True]
    assert found.answered.tolist() == [0.8, 0.8, 0.5]
    assert found.made[0] == 2
    assert np.isnan(found.take(np.array([0])).cost())
    assert found.take(np.array([0, 1])).cost() == 2 + found.made[1]
