"""The figures of an evaluation show the numbers of its table."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

from stylegan2_msp.metrics.evaluate import Evaluation
from stylegan2_msp.metrics.judges import KINDS
from stylegan2_msp.metrics.matching import Scale, add_match
from stylegan2_msp.metrics.observing import Items
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.report.evaluation import evaluation_figures
from stylegan2_msp.report.style import save_figure
from stylegan2_msp.report.table import markdown_table
from stylegan2_msp.uncertainty import Entropy, Msp

LEVELS = np.linspace(0.3, 1, 8).tolist()
KIND_SHARES = (0.2, 0.5, 0.3)
ABOUT = {
    "snapshot": "s",
    "run": "r",
    "kimg": None,
    "data": "d.zip",
    "seed": 0,
    "items": 512,
    "uncertainty": "entropy",
    "class_names": [str(k) for k in range(16)],
}


@pytest.fixture
def found():
    """Sixteen classes with an offset of 0.05, and figures of quality and kinds."""
    rng = np.random.default_rng(0)
    latents = 64
    u = np.tile(LEVELS, latents)
    classes = np.repeat(np.arange(latents) % 16, 8)
    v = u - 0.05 + rng.normal(0, 0.02, u.size)
    items = Items(classes, u, classes, v, second_predicted=classes, second_answered=v + 0.1, group=8)
    results, scale = Results(), Scale(LEVELS, 1 / 16, 1.0)
    add_match(results, items, scale, "uniform", 0)
    for level in LEVELS:
        for of in ("fakes", "reals"):
            for name in ("fid", "kid", "precision", "recall", "density", "coverage", "diversity"):
                results.add(name, level, (level - 0.1, level + 0.1), count=9, on="matched", of=of, level=level)
            for kind, share in zip(KINDS, KIND_SHARES, strict=True):
                results.add(f"share_{kind}", share, count=9, on="matched", of=of, level=level)
    return Evaluation(results, {"uniform": items}, None, scale)


def figures_of(found, measure=None):
    names = [f"name{k}" for k in range(16)]
    return evaluation_figures(found, SimpleNamespace(measure=measure or Msp(), class_names=names))


def texts(figure):
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def line(axes, label):
    return next(found for found in axes.lines if found.get_label() == label).get_xydata()


def test_calibration_and_bias_show_the_offset(found):
    figures = figures_of(found)
    shown = line(figures["calibration"].axes[0], "fakes, first classifier")
    assert shown[:, 0] == pytest.approx(LEVELS)
    assert shown[:, 0] - shown[:, 1] == pytest.approx(0.05, abs=0.01)
    second = line(figures["calibration"].axes[0], "fakes, second classifier")
    assert second[:, 1] - shown[:, 1] == pytest.approx(0.1)
    bias = line(figures["levels"].axes[0], "every class equally often")
    assert bias[:, 1] == pytest.approx(-0.05, abs=0.01)
    assert line(figures["levels"].axes[1], "fakes, first classifier")[:, 1] == pytest.approx(1)


def test_how_sure_the_reals_of_a_level_are_is_shown(found):
    """By bars, and in the table by an interval and their number; the mean answer to one item is not drawn."""
    results = found.results
    for level, count in ((0.3, 1), (0.4, 60)):
        where = {"count": count, "on": "matched", "of": "reals", "level": level}
        results.add("class_agreement", 0.0, (0.0, 0.8 / count), **where)
        results.add("class_agreement", 0.0, (0.0, 0.8 / count), **where | {"on": "uniform"})
        results.add("second_mean", level, (level - 0.02, level + 0.02), **where)
    figures = figures_of(found)
    (reals,) = (c for c in figures["levels"].axes[1].containers if c.get_label() == "reals, first classifier")
    tops = [segment[:, 1].max() for segment in reals.lines[2][0].get_segments()]
    assert tops == pytest.approx([0.8, 0.8 / 60])
    (second,) = (c for c in figures["calibration"].axes[0].containers if c.get_label() == "reals, second classifier")
    assert second.lines[0].get_xdata().tolist() == [0.4]
    results.about = ABOUT
    rows = markdown_table(results).split("| in | mean out")[1].splitlines()
    assert "class agreement of the level's reals, every class equally often | number of the level's reals" in rows[0]
    assert "| 0.000 (0.000 to 0.800) | 1 |" in rows[2]
    assert "| 0.000 (0.000 to 0.013) | 60 |" in rows[3]


def test_levels_without_reals_are_told(found):
    """How much of the data the grid stands for, and a 0 where a level has none."""
    results, where = found.results, {"of": "reals"}
    results.about = ABOUT
    assert "uniform: every class at every level, 8 from 0.30 to 1.00; matched" in markdown_table(results)
    results.add("class_agreement", 0.9, count=400, on="natural", **where)
    text = markdown_table(results)
    assert "8 from 0.30 to 1.00, in whose bins 0 % of the real items lie; matched" in text
    assert all(row.split("|")[-2].strip() == "0" for row in _rows_of_levels(text))
    for on in ("matched", "uniform"):
        results.add("class_agreement", 0.9, count=60, on=on, level=0.4, **where)
    text = markdown_table(results)
    assert "in whose bins 15 % of the real items lie" in text
    assert [row.split("|")[-2].strip() for row in _rows_of_levels(text)] == ["0", "60"] + ["0"] * 6


def _rows_of_levels(text):
    """Of the table by level, without what the second classifier says (the last column)."""
    rows = text.split("| in | mean out")[1].split("\n\n")[0].splitlines()[2:]
    return [row.rsplit("|", 2)[0] + "|" for row in rows]


def test_one_panel_per_class_up_to_twelve(found):
    figure = figures_of(found)["per_class"]
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 12
    assert panels[3].get_title(loc="left").startswith("name3: MAE 0.0")
    assert "MSP asked for (12 of 16 classes shown; results.md has all)" in texts(figure)
    assert line(panels[3], "mean")[:, 1] == pytest.approx(np.array(LEVELS) - 0.05, abs=0.03)


def test_bars_of_the_mix_add_up(found):
    axes = figures_of(found)["corruption_mix"].axes[0]
    assert len(axes.patches) == 8 * 2 * 3
    heights = sorted({round(float(bar.get_height()), 6) for bar in axes.patches})
    assert heights == pytest.approx(sorted(KIND_SHARES))
    assert max(bar.get_y() + bar.get_height() for bar in axes.patches) == pytest.approx(1)
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches}) == 3


def test_quality_has_a_panel_per_figure_with_reals_to_compare(found):
    axes = figures_of(found)["quality"].axes
    assert [a.get_ylabel().split(" ")[0] for a in axes] == [
        "FID",
        "Precision",
        "Recall",
        "Density",
        "Coverage",
        "Distance",
    ]
    assert {"fakes", "as many other reals"} <= set(texts(figures_of(found)["quality"]))


def test_quality_has_room_for_markers_at_its_limits(found):
    for level in LEVELS:  # each second one at 0, the others at 1
        found.results.rows[:] = [r for r in found.results.rows if (r.figure, r.level) != ("precision", level)]
    for k, level in enumerate(LEVELS):
        found.results.add("precision", k % 2, count=9, on="matched", level=level)
    low, high = figures_of(found)["quality"].axes[1].get_ylim()
    assert low < -0.02
    assert high > 1.02


def test_each_calibration_gap_says_what_it_belongs_to(found):
    for name, gap in (("equal_width", 0.046), ("equal_mass", 0.038)):
        found.results.add(f"gap_{name}", gap, count=9, on="natural")
        found.results.add(f"calibration_{name}", 0.5, (0.4, 0.6), count=9, on="natural", level=0.5)
    right = figures_of(found)["calibration"].axes[1]
    assert "weighted gap 0.046 (equal width), 0.038 (equal mass)" in right.get_title(loc="left")


def test_axes_are_named_after_the_measure(found, tmp_path):
    for name, figure in figures_of(found, Entropy()).items():
        assert not any("MSP" in text for text in texts(figure)), name
        if name != "quality":
            assert any("entropy" in text for text in texts(figure)), name
        save_figure(figure, tmp_path / f"{name}.png")


def test_without_quality_or_kinds_these_figures_are_left_out(found):
    found.results.rows[:] = [row for row in found.results.rows if row.on == "uniform"]
    assert set(figures_of(found)) == {"calibration", "levels", "per_class"}


def test_the_table_leaves_out_columns_in_which_nothing_is_known(found):
    found.results.about = dict(ABOUT)
    text = markdown_table(found.results)
    assert "entropy in is what was asked" in text
    assert "drawn per accepted item" not in text
    assert "Fakes:" not in text
    found.results.about |= {"searched_within": 0.05, "draws": 40, "steady": True}
    drawn = "Fakes: up to 40 latents were drawn until the answer was within 0.05, also under small shifts."
    assert drawn in markdown_table(found.results)
    assert "energy ratio" not in text
    assert "| 0.30 | fakes | 9 | 0.300 |" in text
    assert f"| mean(out - in) | {found.results.value('bias', 'uniform'):.3f} (" in text
    head, _, first = (row.split("|") for row in text.split("| class, uniform")[1].splitlines()[:3])
    assert len(head) == len(first) - 1


@pytest.mark.parametrize("name", ["calibration", "levels"])
def test_no_legend_hides_data_or_leaves_the_figure(found, name):
    figure = figures_of(found)[name]
    figure.canvas.draw()
    whole = figure.bbox
    for axes in figure.axes:
        legend = axes.get_legend().get_window_extent()
        assert legend.y1 < axes.get_tightbbox(bbox_extra_artists=[axes.xaxis]).y0 + 1
        assert min(legend.x0, legend.y0) >= 0
        assert legend.x1 <= whole.x1
    left, right = (axes.get_legend().get_window_extent() for axes in figure.axes)
    assert left.x1 < right.x0
