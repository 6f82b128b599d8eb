"""Which items a figure is of, on a few items that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stylegan2_msp.metrics.judges import KINDS
from stylegan2_msp.metrics.matching import Scale, add_levels, add_match, class_figures, match_figures
from stylegan2_msp.metrics.observing import Items
from stylegan2_msp.metrics.realism import Reference, add_energy, add_realism, add_reals
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
    for name, values in (
        ("bias", [0.2, -0.05]),
        ("mae", [0.2, 0.05]),
        ("rmse", [np.sqrt(0.05), np.sqrt(0.005)]),
        ("second_mae", [0.05, 0.2]),
        ("within", [0.5, 1.0]),
        ("class_agreement", [0.5, 0.5]),
    ):
        assert [row.value for row in results.levels(name, "uniform")] == pytest.approx(values), name


def test_items_of_one_latent_are_drawn_together_for_the_intervals() -> None:
    """Sixteen copies of each error say as much as one."""
    error = np.repeat(np.random.default_rng(0).uniform(-0.1, 0.1, 40), 16)
    zeros, asked = np.zeros(640, int), np.tile([0.5, 1.0], 320)
    items = Items(zeros, asked, zeros, asked + error)
    widths = []
    for group in (1, 16):
        results = Results()
        add_match(results, replace(items, group=group), SCALE, "uniform", 0)
        rows = [results.find("bias", "uniform"), results.find("bias", "uniform", cls=0)]
        widths.append([row.high - row.low for row in rows if row is not None])
    assert all(wide > 2.5 * narrow for narrow, wide in zip(*widths, strict=True))


def test_shares_of_a_rare_class_have_wide_intervals() -> None:
    """Two of forty are of class 1 and all are named right: nothing varies, and little is known of class 1."""
    classes, asked = np.repeat([0, 1], [38, 2]), np.tile([0.5, 1.0], 20)
    results = Results()
    add_match(results, Items(classes, asked, classes, asked), SCALE, "natural", 0)
    for cls, lowest in ((None, 0.912), (0, 0.908), (1, 0.342)):  # Wilson: n / (n + 1.96^2)
        row = results.find("class_agreement", "natural", cls=cls)
        assert row is not None
        assert (row.low, row.high) == pytest.approx((lowest, 1.0), abs=1e-3)


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


def test_precision_is_of_fakes_recall_of_reals_and_diversity_of_the_class_asked_for() -> None:
    """Fakes of two classes, each a heap of its own amid the reals; half of them are named as the other class."""
    rng = np.random.default_rng(0)
    first, other = rng.normal(size=(2, 40, 2))
    heaps = np.repeat([[0.0, 0.0], [0.5, 0.0]], 20, axis=0) + 1e-3 * rng.normal(size=(40, 2))
    classes, asked = np.repeat([0, 1], 20), np.full(40, 0.5)
    reals = _items(np.full(80, 0.5), np.concatenate([first, other]), ["none"] * 80)
    fakes = replace(_items(asked, heaps, ["none"] * 40), classes=classes, predicted=np.tile([0, 1], 20))
    results = Results()
    reference = Reference(reals, {0.5: (np.arange(40), np.arange(40, 80))}, np.arange(0))
    add_realism(results, reference, {"matched": fakes}, SCALE, 0, with_quality=True)
    assert results.value("precision", "matched", level=0.5) == 1
    assert results.value("recall", "matched", level=0.5) == 0
    assert results.value("diversity", "matched", level=0.5) < 0.01
    assert results.value("diversity", "matched", of="reals", level=0.5) > 1


def test_energy_of_a_class_is_of_its_fakes() -> None:
    """Class 1 lies ten to the right of class 0; its fakes are as they should be, those of class 0 far from both."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 200)
    cloud = rng.normal(size=(400, 2)) + 10 * classes[:, None] * np.array([1, 0])
    reals = replace(_items(np.ones(400), cloud, ["none"] * 400), classes=classes)
    order = rng.permutation(400)
    moved = rng.normal(size=(400, 2)) + np.where(classes == 1, 10, 30)[:, None] * np.array([1, 0])
    fakes = replace(reals, features=moved.astype(np.float32))
    results = Results()
    add_energy(results, Reference(reals, {None: (order[:200], order[200:])}, np.arange(0)), fakes, 0)
    assert results.value("energy_ratio", "natural", cls=0) > 100
    assert results.value("energy_ratio", "natural", cls=1) < 3
    assert results.find("energy_ratio", "natural", cls=1).count == 100  # type: ignore[union-attr]


def test_figures_of_a_class_are_of_the_class_asked_for() -> None:
    results = Results()
    add_match(results, ITEMS, SCALE, "uniform", 0)
    assert results.value("mae", "uniform", cls=0) == pytest.approx((0.1 + 0) / 2)
    assert results.value("mae", "uniform", cls=1) == pytest.approx((0.3 + 0.1) / 2)
    assert results.value("class_agreement", "uniform", cls=0) == 0
    assert results.value("class_agreement", "uniform", cls=1) == 1


def test_levels_are_covered_where_half_of_their_items_are_near_and_what_lies_in_no_bin_is_no_level() -> None:
    """At .5 half are near, at .75 less, at 1 all; two items lie below all bins, both as asked for."""
    scale = Scale([0.5, 0.75, 1.0], 0.0, 1.0)
    u = np.array([0.5] * 4 + [0.75] * 5 + [1.0] * 2 + [0.1] * 2)
    v = u + np.array([0, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0]) * 0.2
    zeros = np.zeros(len(u), int)
    assert match_figures(Items(zeros, u, zeros, v), scale)["levels_covered"] == pytest.approx(2 / 3)


def test_calibration_curves_have_ten_bins_and_their_gap_is_over_the_range_of_the_measure() -> None:
    """By hand: v jumps in the middle of [.5, 1], at the edge of two bins of its tenths."""
    u = (np.arange(1000) + 0.5) / 2000 + 0.5
    v = u + np.where(u < 0.75, 0.1, -0.05)
    zeros = np.zeros(1000, int)
    items, results = Items(zeros, u, zeros, v), Results()
    add_match(results, items, SCALE, "natural", 0)
    for name in ("equal_width", "equal_mass"):
        rows = results.levels(f"calibration_{name}", "natural")
        assert [row.level for row in rows] == pytest.approx(np.linspace(0.525, 0.975, 10))
        assert [row.value for row in rows] == pytest.approx(
            [*np.linspace(0.625, 0.825, 5), *np.linspace(0.725, 0.925, 5)]
        )
        assert all(row.low < row.value < row.high for row in rows)
        assert {row.count for row in rows} == {100}
        assert results.value(f"gap_{name}", "natural") == pytest.approx((0.1 + 0.05) / 2)


def test_monotonicity_is_of_each_latent_and_counts_latents() -> None:
    """Of three latents two rise and one falls; the levels of a latent are neighbours."""
    u = np.tile([0.5, 1.0], 3)
    v = np.array([0.5, 0.6, 0.5, 0.6, 0.6, 0.5])
    zeros, results = np.zeros(6, int), Results()
    add_match(results, Items(zeros, u, zeros, v, group=2), SCALE, "uniform", 0)
    row = results.find("monotonicity", "uniform")
    assert row is not None
    assert (row.value, row.count) == (pytest.approx(1 / 3), 3)


def test_reals_outside_all_bins_are_of_no_level() -> None:
    """Those at .1, below all bins, are .4 off; kinds as recorded are those of the level's own reals."""
    zeros, u = np.zeros(30, int), np.repeat([0.1, 0.5, 1.0], 10)
    v = np.where(u < 0.2, 0.5, u)
    kinds = np.repeat([0, 1, 2], 10)
    reals = Items(zeros, u, zeros, u, second_predicted=zeros, second_answered=v, kinds=kinds)
    results = Results()
    add_reals(results, reals, Reference(reals, {}, np.arange(30)), SCALE, 0)
    assert results.value("second_mae", "natural", of="reals") == pytest.approx(0.4 / 3)
    assert results.value("second_mae", "uniform", of="reals") == 0
    assert results.find("second_mae", "uniform", of="reals").count == 20  # type: ignore[union-attr]
    for level, shares in ((0.5, [0, 1, 0]), (1.0, [0, 0, 1])):
        assert [results.value(f"recorded_{kind}", "matched", of="reals", level=level) for kind in KINDS] == shares


def test_the_interval_of_a_mean_of_two_stays_within_the_range_of_levels() -> None:
    zeros, u = np.zeros(2, int), np.ones(2)
    reals = Items(zeros, u, zeros, u, second_predicted=zeros, second_answered=np.array([0.6, 0.9]))
    results = Results()
    add_reals(results, reals, Reference(reals, {}, np.arange(2)), SCALE, 0)
    row = results.find("second_mean", "matched", "reals", 1.0)
    assert row is not None
    assert (row.low, row.high) == (0.5, 1.0)


def _items(asked: np.ndarray, features: np.ndarray, kinds: list[str]) -> Items:
    """Of one class; answered at the level that was not asked for."""
    zeros = np.zeros(len(asked), int)
    numbers = np.array([KINDS.index(kind) for kind in kinds])
    return Items(zeros, asked, zeros, 1.5 - asked, kinds=numbers, features=features.astype(np.float32))
