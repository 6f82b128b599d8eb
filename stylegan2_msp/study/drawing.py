"""Figures over variants and seeds: the mean answer at each level, and what tells variants apart, a dot per seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stylegan2_msp.report.style import BLUE, CYCLE, FAINT, INK, identity_line, new_figure, styled

Curve = Sequence[tuple[float, float]]  # (level asked for, mean answer)
_ACROSS = 4  # panels of levels
_COMPARED = {  # column of the table: (title, whether more is better)
    "uniform MAE": ("mean abs(out - in), uniform levels", False),
    "uniform Spearman": ("Spearman, uniform levels", True),
    "largest gap at a level": ("class agreement, largest gap to reals", False),
    "FID": ("FID", False),
    "energy distance ratio": ("energy distance ratio", False),
    "recall in levels": ("recall, mean of the levels", True),
    "mix of corruptions, largest gap": ("mix of corruptions, largest gap to reals", False),
}


def levels_figure(curves: Mapping[str, Sequence[Curve]], measures: Mapping[str, str]) -> Any:
    """Mean answer at each level asked for, a line per seed: variants by colour, or in panels where colours run out.

    Args:
        curves: of every seed, by variant.
        measures: the short name of what each variant is conditioned on.
    """
    with styled():
        few = len(curves) <= len(CYCLE)
        return _overlaid(curves, next(iter(measures.values()))) if few else _panels(curves, measures)


def comparison_figure(rows: Mapping[str, Mapping[str, Sequence[float]]], measures: Mapping[str, str]) -> Any:
    """A row per variant and a panel per figure that was measured: a dot for every seed, dashed the mean of "ours".

    Errors in another measure than the first variant's are left out: its levels have another range.

    Args:
        rows: the table, values by seed (NaN where unknown) by column by variant.
        measures: the short name of what each variant is conditioned on.
    """
    names = list(rows)
    shown = [key for key in _COMPARED if any(not math.isnan(v) for row in rows.values() for v in row.get(key, ()))]
    across, down = min(3, len(shown)), math.ceil(len(shown) / 3)
    with styled():
        figure = new_figure(2.4 + 3.1 * across, down * (1.1 + 0.27 * len(names)))
        grid = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
        for axes, key in zip(grid, shown, strict=False):
            title, more = _COMPARED[key]
            axes.set_title(f"{title}\n{'better →' if more else '← better'}", fontsize=11)
            for place, name in enumerate(names):
                if key != "uniform MAE" or measures[name] == measures[names[0]]:
                    values = [value for value in rows[name].get(key, ()) if not math.isnan(value)]
                    colour = BLUE if name.startswith("ours") else INK
                    axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.6, markersize=7, mew=0)
            ours = [value for value in rows.get("ours", {}).get(key, ()) if not math.isnan(value)]
            if ours:
                axes.axvline(sum(ours) / len(ours), linestyle="--", color=FAINT, linewidth=1.2, zorder=0.5)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
        for axes in grid[len(shown) :]:
            axes.axis("off")
        figure.supxlabel("a dot per seed" + ("; dashed: mean of ours" if "ours" in rows else ""), fontsize=11)
    return figure


def _overlaid(curves: Mapping[str, Sequence[Curve]], measure: str) -> Any:
    figure = new_figure(6.5, 5.2)
    axes = figure.subplots()
    for colour, (variant, seeds) in zip(CYCLE, curves.items(), strict=False):
        _lines(axes, seeds, colour, variant)
    levels = [level for seeds in curves.values() for curve in seeds for level, _ in curve]
    if levels:
        identity_line(axes, min(levels), max(levels))
    axes.set_xlabel(f"{measure} asked for")
    axes.set_ylabel(f"mean {measure} of the classifier's answers")
    axes.set_title("Uniform levels, every class; one line per seed")
    axes.legend()
    return figure


def _panels(curves: Mapping[str, Sequence[Curve]], measures: Mapping[str, str]) -> Any:
    """A panel per variant; the first variant stands in the others of its measure, too, in grey."""
    rows = math.ceil(len(curves) / _ACROSS)
    figure = new_figure(2.6 * _ACROSS, 2.4 * rows + 0.6)
    grid = figure.subplots(rows, _ACROSS, squeeze=False).flatten()
    name, first = next(iter(curves.items()))
    for axes, (variant, seeds) in zip(grid, curves.items(), strict=False):
        levels = [level for curve in seeds for level, _ in curve]
        if measures[variant] == measures[name]:
            _lines(axes, first, "0.6", None)
        _lines(axes, seeds, CYCLE[0], None)
        if levels:
            identity_line(axes, min(levels), max(levels))
        axes.set_title(variant)
    for axes in grid[len(curves) :]:
        axes.axis("off")
    figure.supxlabel(f"level asked for (one line per seed; dashed: out = in; grey: {name})")
    figure.supylabel("mean of the classifier's answers")
    return figure


def _lines(axes: Any, seeds: Sequence[Curve], colour: str, label: str | None) -> None:
    for k, curve in enumerate(seeds):
        points = zip(*curve, strict=True)
        axes.plot(*points, "-", color=colour, linewidth=1.6, alpha=0.75, label=label if k == 0 else None)
