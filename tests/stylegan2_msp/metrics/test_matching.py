"""Which items a figure is of, on a few items that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stylegan2_msp.metrics.judges import KINDS
from stylegan2_msp.metrics.matching import Scale, add_levels, add_match, class_figures
from stylegan2_msp.metrics.observing import Items
from stylegan2_msp.metrics.realism import Reference, add_realism, add_reals
from stylegan2_msp.metrics.results import Results

SCALE = Scale([0.5, 1.0], 0.5, 1.0)
ITEMS = Items(
    classes=np.array([0, 1, 1, 0]),
    asked=np.array([0.5, 0.5, 1.0, 1.0]),
    predicted=np.array([1, 1, 1, 1]),
    answered=np.array([0.6, 0.8, 0.9, 1.0]),
    second_predicted=np.array([0, 1, 1, 1]),
    second_answered=np.array([0.5, 0.6, 0.6, 1.0]),
)


def test_each_classifier_is_compared_with_what_was_asked() -> None:
    found = class_figures(ITEMS, SCALE)
    assert found["class_agreement"] == 2 / 4
    assert found["second_class_agreement"] == 3 / 4
    assert found["mae"] == pytest.approx((0.1 + 0.3 + 0.1 + 0) / 4)
    assert found["second_mae"] == pytest.approx((0 + 0.1 + 0.4 + 0) / 4)
    assert "second_mae" not in class_figures(ITEMS, SCALE, transfer=False)
    results = Results()
    add_levels(results, ITEMS, SCALE, "uniform", 0)
    assert [row.value for row in results.levels("mean", "uniform")] == pytest.approx([0.7, 0.95])
    assert [row.value for row in results.levels("second_mean", "uniform")] == pytest.approx([0.55, 0.8])
    assert [row.value for row in results.levels("second_class_agreement", "uniform")] == [1.0, 0.5]


def test_items_of_one_latent_are_drawn_together_for_the_intervals() -> None:
    """Sixteen copies of each error say as much as one."""
    error = np.repeat(np.random.default_rng(0).uniform(-0.1, 0.1, 40), 16)
    zeros, asked = np.zeros(640, int), np.tile([0.5, 1.0], 320)
    items = Items(zeros, asked, zeros, asked + error)
    widths = []
    for group in (1, 16):
        results = Results()
        add_match(results, replace(items, group=group), SCALE, "uniform", 0)
        row = results.find("bias", "uniform")
        assert row is not None
        widths.append(row.high - row.low)
    assert widths[1] > 2.5 * widths[0]


def test_fakes_and_other_reals_are_both_compared_with_the_first_part_of_the_reals() -> None:
    """Shifted by 1 and by 3: distances 1 and 9. Fakes of another level, or more than the reals, do not count."""
    first = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    reals = _items(np.full(60, 0.5), np.concatenate([first, first + np.array([3, 0])]), ["none"] * 30 + ["blur"] * 30)
    near, far = first + np.array([1, 0]), np.full((40, 2), 1000) + np.arange(80).reshape(40, 2)
    fakes = _items(
        np.array([1.0] * 20 + [0.5] * 50),
        np.concatenate([far[:20], near, far[20:]]),
        ["blur"] * 20 + ["noise"] * 40 + ["none"] * 10,
    )
    results = Results()
    reference = Reference(reals, {0.5: (np.arange(30), np.arange(30, 60))}, np.arange(0))
    add_realism(results, reference, {"matched": fakes}, SCALE, 0, with_quality=True)
    assert results.value("fid", "matched", level=0.5) == pytest.approx(1, rel=1e-4)
    assert results.value("fid", "matched", of="reals", level=0.5) == pytest.approx(9, rel=1e-4)
    assert {row.count for row in results.levels("fid", "matched")} == {30}
    assert [results.value(f"share_{kind}", "matched", level=0.5) for kind in KINDS] == [0.2, 0.0, 0.8]
    assert [results.value(f"share_{kind}", "matched", of="reals", level=0.5) for kind in KINDS] == [0, 1, 0]


def test_the_second_classifier_is_asked_about_reals_that_it_was_not_trained_on() -> None:
    results = Results()
    add_reals(results, ITEMS, Reference(ITEMS, {}, np.array([1, 3])), SCALE, 0)
    assert results.value("second_class_agreement", "natural", of="reals") == 0.5
    assert results.value("second_mae", "natural", of="reals") == pytest.approx(0.05)
    assert results.value("class_agreement", "natural", of="reals") == 0.5


def test_on_uniform_every_level_of_the_reals_counts_alike() -> None:
    """Ninety at the lower level are .2 off, ten at the upper one not at all."""
    zeros, u = np.zeros(100, int), np.array([0.5] * 90 + [1.0] * 10)
    reals = Items(zeros, u, zeros, u, second_predicted=zeros, second_answered=np.where(u < 1, u + 0.2, u))
    results = Results()
    add_reals(results, reals, Reference(reals, {}, np.arange(100)), SCALE, 0)
    assert results.value("second_mae", "natural", of="reals") == pytest.approx(0.18)
    assert results.value("second_mae", "uniform", of="reals") == pytest.approx(0.1)


def test_interval_of_what_the_second_classifier_says_of_a_level_is_students() -> None:
    zeros, v = np.zeros(16, int), np.random.default_rng(0).uniform(0.7, 0.8, 16)
    reals = Items(zeros, np.full(16, 0.5), zeros, v, second_predicted=zeros, second_answered=v)
    results = Results()
    add_reals(results, reals, Reference(reals, {}, np.arange(16)), SCALE, 0)
    row = results.find("second_mean", "matched", "reals", 0.5)
    assert row is not None
    reach = 2.13145 * v.std(ddof=1) / 4  # 97.5 % quantile of Student's t with 15 degrees of freedom
    assert (row.low, row.high) == pytest.approx((v.mean() - reach, v.mean() + reach), abs=1e-5)


def _items(asked: np.ndarray, features: np.ndarray, kinds: list[str]) -> Items:
    """Of one class; answered at the level that was not asked for."""
    zeros = np.zeros(len(asked), int)
    numbers = np.array([KINDS.index(kind) for kind in kinds])
    return Items(zeros, asked, zeros, 1.5 - asked, kinds=numbers, features=features.astype(np.float32))
