"""Figures of an evaluation: calibration of the condition, levels, classes, quality, and the mix of corruption kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stylegan2_msp.generation import ConditionalGenerator
from stylegan2_msp.metrics.evaluate import Evaluation
from stylegan2_msp.metrics.judges import KINDS
from stylegan2_msp.metrics.results import Results, Row
from stylegan2_msp.report.grids import class_labels
from stylegan2_msp.report.style import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    VERMILION,
    identity_line,
    legend_below,
    new_figure,
    styled,
)

_MAX_CLASSES = 12
_REALS = INK
_KIND_COLOURS = dict(zip(KINDS, ("#56B4E9", ORANGE, "#7A4E9E"), strict=True))
_KIND_HATCHES = dict(zip(KINDS, ("", "//", ".."), strict=True))
_KIND_NAMES = dict(zip(KINDS, ("no corruption", "blur", "noise"), strict=True))
_QUALITY = (
    ("fid", "FID (lower is better)"),
    ("precision", "Precision"),
    ("recall", "Recall"),
    ("density", "Density"),
    ("coverage", "Coverage"),
    ("diversity", "Distance within a class"),
)


def evaluation_figures(found: Evaluation, generator: ConditionalGenerator) -> dict[str, Figure]:
    """Every figure for which there is something to show, by file name without its ending."""
    results, title = found.results, generator.measure.title
    figures = {
        "calibration": calibration_figure(found, title),
        "levels": levels_figure(results, title),
        "per_class": classes_figure(found, generator.class_names, title),
    }
    if results.levels("fid", "matched"):
        figures["quality"] = quality_figure(results, title)
    if results.levels("share_blur", "matched"):
        figures["corruption_mix"] = mix_figure(results, title)
    return figures


def calibration_figure(found: Evaluation, title: str) -> Figure:
    """E[v | u] beside u: at every level of the uniform grid, and in bins of the natural distribution; bars are 95 %."""
    results, low = found.results, found.scale.low
    with styled():
        figure = new_figure(11.6, 7.0)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        rows = results.levels("mean", "uniform")
        _with_band(left, rows, BLUE, "fakes, first classifier")
        second = results.levels("second_mean", "uniform")
        if second:
            _with_band(left, second, VERMILION, "fakes, second classifier", "s")
            reals = [row for row in results.levels("second_mean", "matched", "reals") if row.count > 1]
            _open(left, reals, VERMILION, "reals, second classifier", "s")
        _heading(left, "Uniform: mean answer at each level", {"": results.value("gap_equal_width", "uniform")})
        gaps = {}
        for kind, colour, marker in (("equal width", BLUE, "o"), ("equal mass", ORANGE, "D")):
            name = kind.replace(" ", "_")
            rows = results.levels(f"calibration_{name}", "natural")
            if rows:
                _with_bars(right, rows, colour, f"bins of {kind}", marker)
                gaps[f" ({kind})"] = results.value(f"gap_{name}", "natural")
        _heading(right, "Natural: mean answer in bins", gaps)
        for axes in (left, right):
            identity_line(axes, low, found.scale.high)
            axes.set(xlabel=f"{title} asked for")
            legend_below(axes, 2)
        left.set_ylabel(f"Mean {title} answered")
    return figure


def levels_figure(results: Results, title: str) -> Figure:
    """Bias per level, and class agreement of fakes beside that of reals with the same labels; bars are 95 %."""
    with styled():
        figure = new_figure(11.6, 5.6)
        left, right = figure.subplots(1, 2)
        left.axhline(0, color=INK, linewidth=1.2, linestyle="--")
        _with_band(left, results.levels("bias", "uniform"), BLUE, "every class equally often")
        matched = results.levels("bias", "matched")
        if matched:
            _with_band(left, matched, ORANGE, "labels of real items", "D")
        left.set(xlabel=f"{title} asked for", ylabel="Bias: mean of (answered − asked for)")
        legend_below(left, 2)
        for name, who, colour, marker in (
            ("class_agreement", "first classifier", BLUE, "o"),
            ("second_class_agreement", "second classifier", VERMILION, "s"),
        ):
            fakes = results.levels(name, "matched") or results.levels(name, "uniform")
            reals = results.levels(name, "matched", "reals")
            if fakes:
                _with_band(right, fakes, colour, f"fakes, {who}", marker)
            if reals:
                _open(right, reals, colour, f"reals, {who}", marker)
        right.set(xlabel=f"{title} asked for", ylabel="Share of the class asked for", ylim=(-0.03, 1.03))
        legend_below(right, 2)
    return figure


def classes_figure(found: Evaluation, names: list[str], title: str) -> Figure:
    """One panel per class: mean and 10 to 90 % of the answers at each level of the uniform grid."""
    items, scale = found.items["uniform"], found.scale
    held, labels = np.unique(items.classes), class_labels(names)
    shown = held[:_MAX_CLASSES]
    note = f" ({len(shown)} of {len(held)} classes shown; results.md has all)" if len(shown) < len(held) else ""
    columns = min(len(shown), 5)
    lines = -(-len(shown) // columns)
    with styled():
        figure = new_figure(max(2.5 * columns + 0.6, 6), 2.7 * lines + 0.8)
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for axes, cls in zip(grid.flat, shown, strict=False):
            own = items.take(np.flatnonzero(items.classes == cls))
            answers = [own.answered[np.isclose(own.asked, level, atol=1e-4)] for level in scale.levels]
            low, high = np.transpose([np.quantile(v, [0.1, 0.9]) for v in answers])
            axes.fill_between(scale.levels, low, high, color=BLUE, alpha=0.2, linewidth=0, label="10 to 90 %")
            axes.plot(scale.levels, [v.mean() for v in answers], "o-", color=BLUE, markersize=4, label="mean")
            identity_line(axes, scale.levels[0], scale.levels[-1])
            error = found.results.value("mae", "uniform", cls=int(cls))
            axes.set_title(f"{labels[cls]}: MAE {error:.3f}", loc="left", fontsize=11.5)
        figure.supxlabel(f"{title} asked for{note}", fontsize=12.5)
        figure.supylabel(f"{title} answered", fontsize=12.5)
        handles = grid.flat[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=3, fontsize=10.5)
    return figure


def quality_figure(results: Results, title: str) -> Figure:
    """FID, precision, recall, density, coverage and diversity at every level: fakes, and reals to compare."""
    with styled():
        figure = new_figure(13.5, 7.6)
        for axes, (name, label) in zip(figure.subplots(2, 3, sharex=True).flat, _QUALITY, strict=True):
            _with_bars(axes, results.levels(name, "matched"), BLUE, "fakes", "o", line="-")
            _with_bars(axes, results.levels(name, "matched", "reals"), _REALS, "as many other reals", "s", line=":")
            top = axes.get_ylim()[1]
            axes.set(ylabel=label, ylim=(-0.03 * top, 1.04 * top))  # markers at 0 and at the top stay whole
        figure.supxlabel(f"{title} asked for (of reals: their own)", fontsize=12.5)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def mix_figure(results: Results, title: str) -> Figure:
    """Stacked bars of corruption kinds at every level: reals beside fakes, by the probe."""
    levels = [row.level for row in results.levels("share_blur", "matched") if row.level is not None]
    with styled():
        figure = new_figure(max(1.25 * len(levels) + 1.5, 6), 5.2)
        axes = figure.add_subplot()
        for place, level in enumerate(levels):
            for shift, of in ((-0.2, "reals"), (0.2, "fakes")):
                bottom = 0.0
                for kind in KINDS:
                    share = results.value(f"share_{kind}", "matched", of=of, level=level)
                    axes.bar(
                        place + shift,
                        share,
                        0.36,
                        bottom=bottom,
                        color=_KIND_COLOURS[kind],
                        hatch=_KIND_HATCHES[kind],
                        edgecolor="white",
                        label=_KIND_NAMES[kind] if (place, of) == (0, "reals") else None,
                    )
                    bottom += 0.0 if np.isnan(share) else share
                axes.text(place + shift, 1.01, of[0].upper(), ha="center", va="bottom", fontsize=10.5, color=FAINT)
        axes.set_xticks(range(len(levels)), [f"{level:.2g}" for level in levels])
        axes.set(xlabel=f"{title} asked for (R: reals in the level's bin, F: fakes)", ylabel="Share", ylim=(0, 1.07))
        axes.grid(False, axis="x")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(KINDS))
    return figure


def _xy(rows: list[Row]) -> tuple[Any, Any]:
    return [row.level for row in rows], [row.value for row in rows]


def _with_band(axes: Any, rows: list[Row], colour: str, label: str, marker: str = "o") -> None:
    x, y = _xy(rows)
    axes.fill_between(x, [r.low for r in rows], [r.high for r in rows], color=colour, alpha=0.22, linewidth=0)
    axes.plot(x, y, marker=marker, linestyle="-", color=colour, markersize=6, label=label)


def _open(axes: Any, rows: list[Row], colour: str, label: str, marker: str) -> None:
    look = {"markerfacecolor": "white", "elinewidth": 1.2}
    _with_bars(axes, rows, colour, label, marker, ":", **look)


def _with_bars(axes: Any, rows: list[Row], colour: str, label: str, marker: str, line: str = "", **look: Any) -> None:
    x, y = _xy(rows)
    reach = [[max(r.value - r.low, 0) for r in rows], [max(r.high - r.value, 0) for r in rows]]
    look = {"fmt": marker + line, "color": colour, "markersize": 6, "capsize": 3, "label": label} | look
    axes.errorbar(x, y, np.nan_to_num(reach), **look)


def _heading(axes: Any, text: str, gaps: dict[str, float]) -> None:
    """The text, and below it the weighted gaps, each with what it belongs to."""
    known = ", ".join(f"{gap:.3f}{of}" for of, gap in gaps.items() if not np.isnan(gap))
    axes.set_title(text + (f"\nweighted gap {known}" if known else ""), loc="left", fontsize=12)
