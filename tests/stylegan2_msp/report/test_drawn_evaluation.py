"""The figures of an evaluation, read back: every line, bar and band is of the figure that its label names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb

from stylegan2_msp.metrics.evaluate import Evaluation, RealData
from stylegan2_msp.metrics.judges import KINDS
from stylegan2_msp.metrics.matching import Scale
from stylegan2_msp.metrics.observing import Items
from stylegan2_msp.metrics.results import Results, Row
from stylegan2_msp.report.evaluation import evaluation_figures
from stylegan2_msp.report.run import _condition_figures, _fig2a
from stylegan2_msp.report.style import MSP_MAP
from stylegan2_msp.uncertainty import Msp

LEVELS = (0.3, 0.65, 1.0)
RNG = np.random.default_rng(0)
NAMES = ["cat", "dog", "eel"]


def everything() -> Evaluation:
    """Each figure of each distribution has a value and an interval of its own."""
    results = Results()
    names = ["mean", "second_mean", "bias", "mae", "class_agreement", "second_class_agreement"]
    names += ["fid", "precision", "recall", "density", "coverage", "diversity"]
    names += ["gap_equal_width", "gap_equal_mass", "calibration_equal_width", "calibration_equal_mass"]
    places: list[dict[str, Any]] = [
        {"on": on, "of": of, "level": level, "cls": cls}
        for on in ("natural", "uniform", "matched")
        for of in ("fakes", "reals")
        for level, cls in ((None, None), (None, 0), (None, 1), (None, 2), *((level, None) for level in LEVELS))
    ]
    for where in places:
        for name in names:
            value, below, above = RNG.uniform([0.3, 0.01, 0.01], [0.9, 0.1, 0.1])
            results.add(name, value, (value - below, value + above), count=50, **where)
        for kind, share in zip(KINDS, RNG.dirichlet([1, 1, 1]), strict=True):
            results.add(f"share_{kind}", share, count=50, **where)
    classes, u = np.repeat([0, 1, 2], 120), np.tile(np.float32(LEVELS), 120).astype(float)
    items = Items(classes, u, (classes + 1) % 3, u * RNG.uniform(0.2, 1, 360), group=3)
    return Evaluation(results, {"uniform": items}, None, Scale(LEVELS, 0.2, 1.0))


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return everything()


@pytest.fixture(scope="module")
def figures(found: Evaluation) -> dict[str, Any]:
    generator: Any = SimpleNamespace(measure=Msp(), class_names=NAMES)
    return evaluation_figures(found, generator)


def _xy(rows: list[Row]) -> np.ndarray:
    return np.array([(row.level, row.value) for row in rows])


def _is_line_with_band(axes: Any, label: str, rows: list[Row]) -> None:
    """A line of these values in a band of its colour that reaches from low to high."""
    (line,) = (line for line in axes.get_lines() if line.get_label() == label)
    np.testing.assert_allclose(line.get_xydata(), _xy(rows))
    filled = [band for band in axes.collections if isinstance(band, PolyCollection)]
    bands = [band for band in filled if to_hex(band.get_facecolor()[0]) == to_hex(line.get_color())]
    corners = np.concatenate([band.get_paths()[0].vertices for band in bands])
    for row in rows:
        edges = corners[np.isclose(corners[:, 0], row.level), 1]
        assert any(np.isclose(edges, row.low)), label
        assert any(np.isclose(edges, row.high)), label
        assert not any(np.isclose(edges, row.value)), label


def _has_bars(axes: Any, label: str, rows: list[Row]) -> None:
    """Markers at these values with bars from low to high."""
    (bars,) = (bars for bars in axes.containers if bars.get_label() == label)
    np.testing.assert_allclose(bars.lines[0].get_xydata(), _xy(rows))
    for segment, row in zip(bars.lines[2][0].get_segments(), rows, strict=True):
        np.testing.assert_allclose(segment, [(row.level, row.low), (row.level, row.high)])


def test_calibration(found: Evaluation, figures: dict[str, Any]) -> None:
    results = found.results
    left, right = figures["calibration"].axes
    _is_line_with_band(left, "fakes, first classifier", results.levels("mean", "uniform"))
    _is_line_with_band(left, "fakes, second classifier", results.levels("second_mean", "uniform"))
    _has_bars(left, "reals, second classifier", results.levels("second_mean", "matched", "reals"))
    assert f"weighted gap {results.value('gap_equal_width', 'uniform'):.3f}" in left.get_title(loc="left")
    for kind in ("width", "mass"):
        _has_bars(right, f"bins of equal {kind}", results.levels(f"calibration_equal_{kind}", "natural"))
        gap = results.value(f"gap_equal_{kind}", "natural")
        assert f"{gap:.3f} (equal {kind})" in right.get_title(loc="left")
    for axes in (left, right):
        (diagonal,) = (line for line in axes.get_lines() if line.get_label() == "out = in")
        np.testing.assert_allclose(diagonal.get_xydata(), [(0.2, 0.2), (1, 1)])
        assert axes.get_xlabel() == "MSP asked for"
    assert left.get_ylabel() == "Mean MSP answered"


def test_levels(found: Evaluation, figures: dict[str, Any]) -> None:
    results = found.results
    left, right = figures["levels"].axes
    _is_line_with_band(left, "every class equally often", results.levels("bias", "uniform"))
    _is_line_with_band(left, "labels of real items", results.levels("bias", "matched"))
    for who, name in (("first", "class_agreement"), ("second", "second_class_agreement")):
        _is_line_with_band(right, f"fakes, {who} classifier", results.levels(name, "matched"))
        _has_bars(right, f"reals, {who} classifier", results.levels(name, "matched", "reals"))
    assert left.get_ylabel() == "Bias: mean of (answered − asked for)"


def test_per_class(found: Evaluation, figures: dict[str, Any]) -> None:
    """Of items that are all named as another class: panels are of the class asked for."""
    items = found.items["uniform"]
    panels = [axes for axes in figures["per_class"].axes if axes.get_visible()]
    assert len(panels) == 3
    for cls, axes in enumerate(panels):
        error = found.results.value("mae", "uniform", cls=cls)
        assert axes.get_title(loc="left") == f"{NAMES[cls]}: MAE {error:.3f}"
        (mean,) = (line for line in axes.get_lines() if line.get_label() == "mean")
        (band,) = axes.collections
        corners = band.get_paths()[0].vertices
        for (x, y), level in zip(mean.get_xydata(), LEVELS, strict=True):
            own = items.answered[(items.classes == cls) & np.isclose(items.asked, level)]
            assert (x, y) == pytest.approx((level, own.mean()))
            edges = corners[np.isclose(corners[:, 0], level), 1]
            assert (edges.min(), edges.max()) == pytest.approx(tuple(np.quantile(own, [0.1, 0.9])))


def test_quality(found: Evaluation, figures: dict[str, Any]) -> None:
    labels = ["FID (lower is better)", "Precision", "Recall", "Density", "Coverage", "Distance within a class"]
    names = ["fid", "precision", "recall", "density", "coverage", "diversity"]
    for axes, label, name in zip(figures["quality"].axes, labels, names, strict=True):
        assert axes.get_ylabel() == label
        _has_bars(axes, "fakes", found.results.levels(name, "matched"))
        _has_bars(axes, "as many other reals", found.results.levels(name, "matched", "reals"))


def test_mix_of_corruptions(found: Evaluation, figures: dict[str, Any]) -> None:
    """Reals to the left of fakes, as the letters above the bars say; each kind in its colour of the legend."""
    figure = figures["corruption_mix"]
    (axes,) = figure.axes
    letters = {round(text.get_position()[0], 3): text.get_text() for text in axes.texts}
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    colour = dict(zip(names, (to_hex(patch.get_facecolor()) for patch in legend.get_patches()), strict=True))
    assert names == ["no corruption", "blur", "noise"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.3", "0.65", "1"]
    shown = {
        (round(bar.get_x() + bar.get_width() / 2, 3), to_hex(bar.get_facecolor())): (bar.get_y(), bar.get_height())
        for bar in axes.patches
    }
    for place, level in enumerate(LEVELS):
        for x, letter, of in ((place - 0.2, "R", "reals"), (place + 0.2, "F", "fakes")):
            assert letters[round(x, 3)] == letter
            bottom = 0.0
            for name, kind in zip(names, KINDS, strict=True):
                share = found.results.value(f"share_{kind}", "matched", of=of, level=level)
                assert shown[round(x, 3), colour[name]] == pytest.approx((bottom, share))
                bottom += share


def test_in_and_out_of_each_distribution_are_in_its_own_figure_under_its_own_heading() -> None:
    results, items = Results(), {}
    for on, rho, error in (("natural", float("nan"), 0.25), ("uniform", 0.5, 0.125)):
        u = RNG.choice(LEVELS, 60)
        zeros = np.zeros(60, int)
        items[on] = Items(zeros, u, zeros, u * RNG.uniform(0.2, 1, 60))
        results.add("spearman", rho, count=60, on=on)
        results.add("mae", error, count=60, on=on)
    generator: Any = SimpleNamespace(measure=Msp())
    figures = _condition_figures(generator, Evaluation(results, items, None, Scale(LEVELS, 0.2, 1.0)))
    headings = {"natural": "Natural MSP: Spearman undefined, MAE 0.250"}
    headings["uniform"] = "Uniform MSP: Spearman 0.50, MAE 0.125"
    for name, on in (("fig4_natural", "natural"), ("fig4_in_out", "uniform"), ("fig2b_levels", "uniform")):
        (axes,) = figures[name].axes
        means = np.array([xy for line in axes.lines if line.get_marker() == "o" for xy in line.get_xydata()])
        own = [items[on].answered[items[on].asked == level].mean() for level in LEVELS]
        np.testing.assert_allclose(means, np.transpose([LEVELS, own]), atol=1e-6)
        if name != "fig2b_levels":
            assert axes.get_title(loc="left") == headings[on]
            np.testing.assert_allclose(np.asarray(axes.collections[0].get_offsets())[:, 1], items[on].answered)


class Points(SimpleNamespace):
    """As much of an archive of points as the figure looks at."""

    def __len__(self) -> int:
        return len(self.classes)


def test_points_have_their_own_level_where_they_are_real_and_the_one_asked_for_where_not() -> None:
    n = 50
    xy, u = RNG.normal(size=(2, n, 2)).astype(np.float32), RNG.uniform(0.5, 1, (3, n))
    classes = RNG.integers(0, 2, (2, n))
    archive: Any = Points(classes=classes[0], levels=lambda: u[0], load_points=lambda: xy[0], kind="points")
    fakes = Items(classes[1], u[1], 1 - classes[1], u[2], features=xy[1])
    found = Evaluation(Results(), {"natural": fakes}, None, Scale(LEVELS, 0.5, 1.0))
    generator: Any = SimpleNamespace(measure=Msp(), class_names=["up", "low"])
    figure = _fig2a(generator, found, RealData(archive))
    for axes, points, own, level in zip(figure.axes, xy, classes, u, strict=False):
        drawn = [
            (*place, to_hex(colour))
            for cls, cloud in enumerate(axes.collections)
            for place, colour in zip(np.asarray(cloud.get_offsets()), cloud.get_facecolors(), strict=True)
            if (own[np.abs(points - place).sum(axis=1).argmin()] == cls)
        ]
        assert len(drawn) == n
        for x, y, colour in drawn:
            at = np.abs(points - (x, y)).sum(axis=1).argmin()
            assert np.abs(np.array(to_rgb(colour)) - MSP_MAP((level[at] - 0.5) * 2)[:3]).max() < 0.03
