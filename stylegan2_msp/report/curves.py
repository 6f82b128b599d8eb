"""Figures of how the classifier's MSP ("out") follows the MSP asked for ("in"), and of how training got there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from stylegan2_msp.metrics.scores import LevelFigures, per_level
from stylegan2_msp.report.style import BLUE, FAINT, ORANGE, VERMILION, identity_line, legend_below, new_figure, styled

_MAX_LEVELS = 24
_BINS, _FEWEST = 10, 5
CURVES = (
    ("spearman", "Spearman(in, out)", (None, 1.02)),
    ("mae", "Mean |out − in|", (0.0, None)),
    ("class_agreement", "Share of the class asked for", (0.0, 1.02)),
    ("diversity", "Diversity within a class (reals: 1)", (0.0, None)),
)


def fig4_in_out(
    msp_in: npt.ArrayLike, msp_out: npt.ArrayLike, title: str = "", seed: int = 0, measure: str = "MSP"
) -> Figure:
    """Scatter like Fig. 4 of Le Coz 2023, with the mean and the 10 to 90 % band of the output at every level.

    Continuous input is gathered into ten bins of equal width, those with fewer than five left out. Dots at few levels
    are moved sideways a little, at random, so that they do not hide each other. ``measure`` is what the axes name.
    """
    u, v = np.asarray(msp_in, float), np.asarray(msp_out, float)
    few = len(np.unique(u.round(6))) <= _MAX_LEVELS
    rows = per_level(u, v) if few else _binned(u, v)
    low = _floor(u, v)
    jitter = np.random.default_rng(seed).uniform(-0.012, 0.012, u.size) if few else 0.0
    with styled():
        figure = new_figure(6.4, 6.4)
        axes = figure.add_subplot()
        axes.scatter(
            u + jitter, v, s=9, color=FAINT, alpha=_alpha(u.size), linewidths=0, label="one sample", rasterized=True
        )
        _band(axes, rows)
        identity_line(axes, low, 1)
        _square(axes, low, measure)
        if title:
            axes.set_title(title, loc="left")
        legend_below(axes, 4)
    return figure


def fig2b_levels(msp_in: npt.ArrayLike, msp_out: npt.ArrayLike, title: str = "", measure: str = "MSP") -> Figure:
    """Box of the output at every input level, like Fig. 2b of Le Coz 2023; whiskers reach the 5 and 95 % quantiles."""
    u, v = np.asarray(msp_in, float).round(6), np.asarray(msp_out, float)
    levels = np.unique(u)
    low = _floor(u, v)
    width = 0.6 * float(np.diff(levels).min()) if len(levels) > 1 else 0.05
    with styled():
        figure = new_figure(6.4, 6.4)
        axes = figure.add_subplot()
        identity_line(axes, low, 1)
        axes.boxplot(
            [v[u == level] for level in levels],
            positions=list(levels),
            widths=width,
            whis=(5, 95),
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": "#BFDCEC", "edgecolor": BLUE},
            whiskerprops={"color": BLUE},
            capprops={"color": BLUE},
            medianprops={"color": BLUE, "linewidth": 2.4},
            meanprops={"marker": "o", "markerfacecolor": VERMILION, "markeredgecolor": "white", "markersize": 8},
        )
        axes.plot([], [], "o", color=VERMILION, label="mean")
        axes.plot([], [], "-", color=BLUE, linewidth=2.4, label="median, quartiles, 5 to 95 %")
        _square(axes, low, measure)
        if measure == "MSP":
            axes.set(xlabel="Input confidence (MSP asked for)", ylabel="Output confidence (MSP by the classifier)")
        if title:
            axes.set_title(title, loc="left")
        axes.set_xlim(min(low, levels[0] - width / 2 - 0.01), 1.01 + width / 2)
        legend_below(axes, 3)
    return figure


def training_curves(records: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Spearman, mean absolute error, class agreement and diversity against kimg, on natural and on uniform levels.

    Args:
        records: one mapping per tick, as in stats.jsonl: 'kimg' and, after 'condition/', the names of
            `metrics.condition.ConditionFigures`; a tick without a figure is skipped in its panel.
    """
    with styled():
        figure = new_figure(15, 4.4)
        for axes, (name, label, limits) in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
            _curve(axes, records, name, limits)
            axes.set(xlabel="Images shown (thousands)", ylabel=label)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    return figure


def _curve(
    axes: Any, records: Sequence[Mapping[str, Any]], name: str, limits: tuple[float | None, float | None]
) -> None:
    lowest = 0.0
    for split, colour, dash in (("natural", BLUE, "-"), ("uniform", ORANGE, "--")):
        key = f"condition/{split}_{name}"
        known = [r for r in records if r.get("kimg") is not None and r.get(key) is not None]
        y = [float(r[key]) for r in known]
        axes.plot(
            [float(r["kimg"]) for r in known], y, dash, color=colour, marker="o", markersize=4, label=f"{split} levels"
        )
        lowest = min([lowest, *y])
    low = lowest if limits[0] is None else limits[0]
    high = axes.get_ylim()[1] if limits[1] is None else limits[1]
    axes.set_ylim(low - 0.025 * (high - low), high)  # markers at the lower end stay whole


def _band(axes: Any, rows: Sequence[LevelFigures]) -> None:
    levels = [r.level for r in rows]
    axes.fill_between(levels, [r.q10 for r in rows], [r.q90 for r in rows], color=BLUE, alpha=0.18, label="10 to 90 %")
    axes.plot(levels, [r.mean for r in rows], "o-", color=BLUE, markersize=6, label="mean")


def _binned(u: npt.NDArray[Any], v: npt.NDArray[Any]) -> list[LevelFigures]:
    edges = np.linspace(u.min(), u.max(), _BINS + 1)
    bins = np.clip(np.digitize(u, edges) - 1, 0, _BINS - 1)
    rows = [per_level(np.full((bins == b).sum(), u[bins == b].mean()), v[bins == b]) for b in np.unique(bins)]
    return [row for found in rows for row in found if row.count >= _FEWEST]


def _floor(u: npt.NDArray[Any], v: npt.NDArray[Any]) -> float:
    return max(0.0, float(np.floor(min(u.min(), v.min()) * 20) / 20) - 0.02)


def _alpha(count: int) -> float:
    return float(np.clip(600 / max(count, 1), 0.12, 0.7))


def _square(axes: Any, low: float, measure: str) -> None:
    axes.set(xlim=(low, 1.02), ylim=(low, 1.02), aspect="equal")
    axes.set(xlabel=f"{measure} asked for (in)", ylabel=f"{measure} by the classifier (out)")
