"""The table and the figure of a study, on figures that are known: each has a value of its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylegan2_msp.metrics.results import Results
from stylegan2_msp.study.drawing import comparison_figure, levels_figure
from stylegan2_msp.study.experiments import EXPERIMENTS
from stylegan2_msp.study.run import Study
from stylegan2_msp.study.summary import COLUMNS, _mean, collect, summarise

LEVELS = (0.3, 0.65, 1.0)


@pytest.fixture
def everything() -> Results:
    """Every figure on every distribution, of fakes and of reals, overall, by level and by class."""
    found = Results({"uncertainty": "MSP", "items": 80})
    names = ("mae", "spearman", "class_agreement", "second_spearman", "cost", "monotonicity", "fid", "recall", "mean")
    names += ("energy_ratio", "share_none", "share_blur", "share_noise")
    rng = np.random.default_rng(0)
    for name in names:
        for on in ("natural", "uniform", "matched"):
            for of in ("fakes", "reals"):
                for level, cls in ((None, None), (None, 0), (None, 1), *((level, None) for level in LEVELS)):
                    count = 19 if level == LEVELS[0] else 100
                    found.add(name, rng.uniform(0, 1), count=count, on=on, of=of, level=level, cls=cls)
    return found


@pytest.mark.parametrize(
    ("column", "figure", "on", "of"),
    [
        ("uniform MAE", "mae", "uniform", "fakes"),
        ("uniform Spearman", "spearman", "uniform", "fakes"),
        ("natural MAE", "mae", "natural", "fakes"),
        ("class agreement, natural", "class_agreement", "natural", "fakes"),
        ("of reals", "class_agreement", "natural", "reals"),
        ("uniform", "class_agreement", "uniform", "fakes"),
        ("of reals, uniform", "class_agreement", "uniform", "reals"),
        ("second classifier's Spearman", "second_spearman", "uniform", "fakes"),
        ("on reals", "second_spearman", "uniform", "reals"),
        ("made per accepted image", "cost", "uniform", "fakes"),
        ("monotonicity", "monotonicity", "uniform", "fakes"),
        ("FID", "fid", "natural", "fakes"),
        ("recall", "recall", "natural", "fakes"),
        ("energy distance ratio", "energy_ratio", "natural", "fakes"),
    ],
)
def test_columns_of_one_figure(everything: Results, column: str, figure: str, on: str, of: str) -> None:
    assert COLUMNS[column](everything) == everything.value(figure, on, of=of)


def test_columns_over_classes_and_levels(everything: Results) -> None:
    """Of gaps, levels of fewer than twenty reals are left out; fakes may lie below the reals."""

    def at(name: str, level: float, of: str = "fakes") -> float:
        return everything.value(name, "matched", of=of, level=level)

    worst = min(everything.value("spearman", "uniform", cls=k) for k in (0, 1))
    assert COLUMNS["worst class's"](everything) == worst
    assert COLUMNS["recall in levels"](everything) == pytest.approx(np.mean([at("recall", u) for u in LEVELS]))
    for column, names in (
        ("largest gap at a level", ["class_agreement"]),
        ("mix of corruptions, largest gap", ["share_none", "share_blur", "share_noise"]),
    ):
        gaps = {(name, u): at(name, u) - at(name, u, "reals") for name in names for u in LEVELS[1:]}
        assert COLUMNS[column](everything) == pytest.approx(max(map(abs, gaps.values())))
        for name, u in gaps:  # each of them, in both directions
            for moved in (-2.0, 2.0):
                changed = Results(rows=list(everything.rows))
                old = changed.find(name, "matched", level=u)
                assert old is not None
                changed.rows.remove(old)
                changed.add(name, moved, count=100, on="matched", level=u)
                assert COLUMNS[column](changed) == pytest.approx(abs(moved - at(name, u, "reals")))


def test_a_class_that_follows_nothing_is_the_worst_whichever_comes_first() -> None:
    for values in ((math.nan, 0.8), (0.8, math.nan)):
        found = Results()
        for cls, value in enumerate(values):
            found.add("spearman", value, count=40, on="uniform", cls=cls)
        assert COLUMNS["worst class's"](found) == 0
    found.add("spearman", -0.2, count=40, on="uniform", cls=2)
    assert COLUMNS["worst class's"](found) == -0.2
    assert math.isnan(COLUMNS["worst class's"](Results()))


def test_a_mean_over_some_of_the_seeds_says_so() -> None:
    assert _mean([0.1, 0.2, 0.3]) == "0.200 ± 0.100"
    assert _mean([0.1, math.nan, 0.3]) == "0.200 ± 0.141 (2 of 3 seeds)"
    assert _mean([0.1]) == "0.100"
    assert _mean([math.nan]) == "-"


def _curves(*offsets: float) -> list[list[tuple[float, float]]]:
    return [[(u, u - offset) for u in LEVELS] for offset in offsets]


def test_one_pair_of_axes_has_a_line_per_seed_in_its_variants_colour() -> None:
    axes = levels_figure(
        {"plain": _curves(0.1, 0.2), "ours": _curves(0.01, 0.02)}, {"plain": "entropy", "ours": "entropy"}
    ).axes[0]
    *lines, diagonal = axes.get_lines()
    for line, offset in zip(lines, (0.1, 0.2, 0.01, 0.02), strict=True):
        np.testing.assert_allclose(line.get_xydata(), [(u, u - offset) for u in LEVELS])
    assert len({line.get_color() for line in lines[:2]}) == len({line.get_color() for line in lines[2:]}) == 1
    assert lines[0].get_color() != lines[2].get_color()
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    assert [named[name].get_color() for name in ("plain", "ours")] == [line.get_color() for line in lines[::2]]
    np.testing.assert_allclose(diagonal.get_xydata(), [(0.3, 0.3), (1, 1)])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("entropy asked for", "mean entropy of the classifier's answers")


def test_panels_have_the_lines_of_the_variant_that_they_name() -> None:
    offsets = {f"v{k}": 0.01 * (k + 1) for k in range(7)}
    figure = levels_figure({name: _curves(offset) for name, offset in offsets.items()}, dict.fromkeys(offsets, "MSP"))
    for axes, (name, offset) in zip(figure.axes, offsets.items(), strict=False):
        assert axes.get_title() == name
        grey, own, _ = axes.get_lines()
        np.testing.assert_allclose(grey.get_ydata(), np.array(LEVELS) - 0.01)
        np.testing.assert_allclose(own.get_ydata(), np.array(LEVELS) - offset)
    assert not figure.axes[7].axison


def test_every_seed_is_a_dot_in_the_row_of_its_variant_beside_the_mean_of_ours() -> None:
    """Errors in other measures are of other ranges and are left out; so are panels of what nobody measured."""
    rows = {
        "plain": {"uniform MAE": [0.3, 0.4], "FID": [5.0, math.nan], "energy distance ratio": [math.nan] * 2},
        "ours": {"uniform MAE": [0.1, 0.2], "FID": [3.0, 5.0]},
        "measure entropy": {"uniform MAE": [0.9, 0.9], "FID": [2.0, 2.5]},
    }
    figure = comparison_figure(rows, {"plain": "MSP", "ours": "MSP", "measure entropy": "entropy"})
    error, fid = figure.axes
    for axes, values, mean in (
        (error, [[0.3, 0.4], [0.1, 0.2], []], 0.15),
        (fid, [[5.0], [3.0, 5.0], [2.0, 2.5]], 4.0),
    ):
        *dots, dashed = sorted(axes.get_lines(), key=lambda line: line.get_linestyle() == "--")
        drawn = {(x, y) for line in dots for x, y in line.get_xydata()}
        assert drawn == {(x, place) for place, seeds in enumerate(values) for x in seeds}
        assert dashed.get_xdata() == pytest.approx([mean, mean])
        assert axes.yaxis_inverted()
    assert [label.get_text() for label in error.get_yticklabels()] == list(rows)
    assert "← better" in error.get_title()
    assert error.get_title() != fid.get_title()


def test_what_is_drawn_and_said_is_of_the_uniform_levels_and_the_length_of_this_study(
    tmp_path: Path, everything: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr("stylegan2_msp.study.summary.levels_figure", lambda curves, _: drawn.append(curves))
    monkeypatch.setattr("stylegan2_msp.study.summary.save_figure", lambda *_: None)
    study = Study(EXPERIMENTS["moons"], tmp_path, (0, 1), 0.5, None, None, 1)
    for variant in study.experiment.variants[:2]:
        path = study.results(variant, 1)
        path.parent.mkdir(parents=True)
        path.write_text(everything.to_json())
    assert {name: list(seeds) for name, seeds in collect(study).items()} == {"plain": [1], "ours": [1]}
    text = summarise(study, 150.0)[0].read_text(encoding="utf-8")
    assert "80 items per distribution; 2500 kimg each" in text
    assert "this call took 2 min" in text
    curve = [(u, everything.value("mean", "uniform", level=u)) for u in LEVELS]
    assert drawn == [{"plain": [curve], "ours": [curve]}]
    assert (
        f"| plain | 1 | {everything.value('mae', 'uniform'):.3f} | {everything.value('spearman', 'uniform'):.3f} |"
        in text
    )
