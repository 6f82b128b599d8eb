"""Grids, scatters and curves, read back: each picture under its labels, each colour and name what it stands for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from stylegan2_msp.metrics.intervals import interval_of_share
from stylegan2_msp.report import training
from stylegan2_msp.report.curves import CURVES, fig2b_levels, fig4_in_out, training_curves
from stylegan2_msp.report.generated import Plan, _asked, draw
from stylegan2_msp.report.grids import fig3_grid
from stylegan2_msp.report.points import points_asked_and_got
from stylegan2_msp.report.reliability import reliability_diagram
from stylegan2_msp.report.style import INK, MSP_MAP, VERMILION
from stylegan2_msp.request import Answer, Request
from stylegan2_msp.uncertainty import Msp


def cells(figure: Figure) -> dict[tuple[str, str], tuple[int, str, str]]:
    """(row's label, column's label) -> (the picture's first byte, what stands above it, in which colour)."""
    (axes,) = figure.axes
    left = min(image.get_extent()[0] for image in axes.images)
    top = min(image.get_extent()[3] for image in axes.images)
    found = {}
    for image in axes.images:
        x0, x1, y1, y0 = image.get_extent()
        row = column = ""
        above: tuple[str, str] = ("", "")
        for text in axes.texts:
            x, y = text.get_position()
            if x < left and y0 < y < y1:
                row = text.get_text()
            elif x0 < x < x1 and text.get_fontsize() == 10.5 and y0 - 0.1 < y < y0:
                above = text.get_text(), to_hex(text.get_color())
            elif x0 < x < x1 and y < top - 0.05:
                column = text.get_text()
        found[row, column] = (int(image.get_array()[0, 0, 0]), *above)
    return found


def test_each_image_stands_under_its_seed_and_class_beside_its_level_with_what_the_classifier_names_it() -> None:
    generator: Any = SimpleNamespace(
        kind="images", measure=Msp(), class_names=["cat", "dog", "eel"], num_classes=3, takes_class=True
    )
    plan = Plan([(0, 1), (5, 2)], [1.0, 0.4])
    items, answers = {}, {}
    for k, request in enumerate(plan.requests):
        items[request] = torch.full((1, 4, 4), 50 * k + 7, dtype=torch.uint8)
        answers[request] = Answer((k + 1) % 3, 0.5 + k / 10)  # named dog, eel, cat, dog
    found = cells(draw(generator, plan, items, answers))
    assert found == {
        ("MSP 1.0", "dog\nseed 0"): (7, "dog\n0.50", INK),
        ("MSP 1.0", "eel\nseed 5"): (57, "eel\n0.60", INK),
        ("MSP 0.4", "dog\nseed 0"): (107, "cat\n0.70", VERMILION.lower()),
        ("MSP 0.4", "eel\nseed 5"): (157, "dog\n0.80", VERMILION.lower()),
    }


def test_the_real_images_of_a_row_are_those_nearest_to_its_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items of an archive in another order; every image is filled with its place in the archive."""
    figures: list[Figure] = []
    monkeypatch.setattr(training, "save_figure", lambda figure, _: figures.append(figure))
    rng = np.random.default_rng(0)
    classes, u = np.arange(200) % 2, rng.uniform(0.5, 1, 200)
    archive: Any = SimpleNamespace(
        kind="images", class_names=["cat", "dog"], num_classes=2, classes=classes, annotated=True, uncertainty="msp"
    )
    archive.levels = lambda: u
    index = rng.permutation(200)[:120]
    data = np.broadcast_to(index[:, None, None, None], (120, 1, 4, 4)).astype(np.uint8)
    training.save_reals(tmp_path / "r.png", archive, data, index)
    (axes,) = figures[0].axes
    shown = [int(image.get_array()[0, 0, 0]) for image in axes.images]
    captions = [text.get_text() for text in axes.texts]
    levels = training.grid_levels(2)
    expected = []
    for cls in (0, 1):
        own = [i for i in index.tolist() if classes[i] == cls]
        expected += [sorted(own, key=lambda i: abs(u[i] - level))[:3] for level in levels]
    assert shown == [i for three in expected for i in three]
    assert all(f"{u[i]:.2f}" in captions for i in shown)
    heads = sorted((t.get_position()[0], t.get_text()) for t in axes.texts if t.get_text() in ("cat", "dog"))
    assert [name for _, name in heads] == ["cat"] * 3 + ["dog"] * 3
    columns = sorted({image.get_extent()[0] for image in axes.images})
    assert {columns.index(image.get_extent()[0]) for image in axes.images[:3]} == {0, 1, 2}


def test_labels_of_rows_and_columns_stand_where_their_images_are() -> None:
    images = {(r, c): np.full((1, 4, 4), 10 * r + c, np.uint8) for r in range(2) for c in range(3)}
    found = cells(fig3_grid(images, ["a", "b"], ["x", "y", "z"]))
    assert {where: cell[0] for where, cell in found.items()} == {
        ("ab"[r], "xyz"[c]): 10 * r + c for r in range(2) for c in range(3)
    }


def test_points_have_the_colours_of_their_panel_and_the_bar_and_the_markers_of_the_legend() -> None:
    rng = np.random.default_rng(0)
    xy, classes = rng.normal(size=(40, 2)), np.repeat([0, 1], 20)
    asked, got = rng.uniform(0.5, 1, (2, 40))
    figure = points_asked_and_got(xy, classes, asked, got, ["up", "low"])
    *panels, bar = figure.axes
    assert (bar.get_ylabel(), bar.get_ylim()) == ("MSP", (0.5, 1.0))
    handles = {handle.get_label(): handle.get_marker() for handle in panels[0].get_legend().legend_handles}
    assert handles == {"class up": "o", "class low": "^"}
    shapes = [clouds.get_paths()[0].vertices.shape for clouds in panels[0].collections]
    assert shapes[0] != shapes[1]  # a disc and a triangle
    for panel, u, title in zip(panels, (asked, got), ("asked for", "out"), strict=True):
        assert panel.get_title(loc="left").endswith(f"MSP {title}")
        for cls, cloud in enumerate(panel.collections):
            rows = np.flatnonzero(classes == cls)[np.argsort(-u[classes == cls], kind="stable")]
            np.testing.assert_allclose(np.asarray(cloud.get_offsets()), xy[rows])
            np.testing.assert_allclose(cloud.get_facecolors()[:, :3], MSP_MAP((u[rows] - 0.5) * 2)[:, :3], atol=0.02)


def test_the_diagonal_reaches_to_1_and_dots_are_the_means() -> None:
    rng = np.random.default_rng(0)
    u = np.repeat([0.4, 0.7, 1.0], 50)
    v = np.clip(u * rng.uniform(0.5, 1, 150), 0, 1)
    for figure in (fig4_in_out(u, v), fig2b_levels(u, v)):
        (diagonal,) = (line for line in figure.axes[0].lines if line.get_label() == "out = in")
        assert diagonal.get_xydata()[1].tolist() == [1, 1]
        assert (np.diff(diagonal.get_xydata()) == 0).all()
    dots = [line.get_xydata()[0] for line in fig2b_levels(u, v).axes[0].lines if line.get_markersize() == 8]
    np.testing.assert_allclose(dots, [(level, v[u == level].mean()) for level in (0.4, 0.7, 1.0)])


def test_training_curves_are_under_the_name_of_their_figure_and_distribution() -> None:
    words = {
        "spearman": "Spearman",
        "mae": "Mean |out",
        "class_agreement": "Share of the class",
        "diversity": "Diversity",
    }
    records = [
        {"kimg": kimg} | {f"condition/{on}_{name}": kimg + i + 0.5 * (on == "uniform") for i, name in enumerate(words)
                          for on in ("natural", "uniform")}
        for kimg in (10.0, 20.0)
    ]  # fmt: skip
    figure = training_curves(records)
    assert [name for name, *_ in CURVES] == list(words)
    for i, (axes, word) in enumerate(zip(figure.axes, words.values(), strict=True)):
        assert axes.get_ylabel().startswith(word)
        lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        assert lines == {
            "natural levels": [[10, 10 + i], [20, 20 + i]],
            "uniform levels": [[10, 10.5 + i], [20, 20.5 + i]],
        }
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == {"natural levels", "uniform levels"}


def test_bars_of_reliability_span_their_bins_and_intervals_are_of_the_accuracy() -> None:
    bins = [
        {"low": 0.4, "high": 0.6, "count": 10, "confidence": 0.52, "accuracy": 0.9},
        {"low": 0.8, "high": 1.0, "count": 30, "confidence": 0.97, "accuracy": 0.2},
    ]
    panel = {"bins": bins, "count": 40, "ece": 0.1, "nll": 0.2, "brier": 0.3}
    top, bottom = reliability_diagram({"a": panel}).axes
    for axes, heights in ((top, [0.9, 0.2]), (bottom, [0.25, 0.75])):
        spans = [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height()) for bar in axes.patches]
        expected = [(row["low"], row["high"], height) for row, height in zip(bins, heights, strict=True)]
        np.testing.assert_allclose(spans, expected)
    for segment, row in zip(top.collections[0].get_segments(), bins, strict=True):
        low, high = interval_of_share(row["accuracy"], row["count"])
        np.testing.assert_allclose(segment, [(row["confidence"], low), (row["confidence"], high)])


def test_of_a_vector_the_probability_of_the_class_is_what_was_asked() -> None:
    assert _asked(Request(0, 1, (0.7, 0.2, 0.1))) == 0.2
    assert _asked(Request(0, 1, 0.6)) == 0.6
