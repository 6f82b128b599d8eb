"""The reliability diagram: how often a classifier is right at each confidence, before and after recalibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from stylegan2_msp.metrics.intervals import interval_of_share
from stylegan2_msp.report.style import BLUE, FAINT, INK, identity_line, new_figure, styled


def reliability_diagram(panels: Mapping[str, Mapping[str, Any]], title: str = "") -> Figure:
    """One panel per name: bars of accuracy per bin of confidence, the share of samples below (Guo et al. 2017, fig. 1).

    Lines through the dots are 95 % intervals of the accuracy: long where a bin holds few samples.

    Args:
        panels: name -> figures as `metrics.calibration.calibration_figures` gives them.
        title: line above all.
    """
    with styled():
        figure = new_figure(4.6 * len(panels), 5.7)
        top, bottom = figure.subplots(2, len(panels), sharex=True, squeeze=False, height_ratios=(3, 1))
        for axes, shares, (name, found) in zip(top, bottom, panels.items(), strict=True):
            _panel(axes, shares, name, found)
        top[0].set_ylabel("accuracy")
        bottom[0].set_ylabel("share")
        figure.legend(*top[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        if title:
            figure.suptitle(title)
    return figure


def _panel(axes: Any, shares: Any, name: str, found: Mapping[str, Any]) -> None:
    bins = found["bins"]
    left, width = [b["low"] for b in bins], [b["high"] - b["low"] for b in bins]
    axes.bar(left, [b["accuracy"] for b in bins], width, align="edge", color=BLUE, edgecolor="white")
    identity_line(axes, 0, 1, "calibrated")
    x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
    low, high = zip(*(interval_of_share(b["accuracy"], b["count"]) for b in bins), strict=True)
    axes.vlines(x, low, high, color=INK, linewidth=1.2, label="95 %")
    axes.plot(x, y, "o", color="black", markersize=4, clip_on=False, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"{name}: ECE {found['ece']:.3f}, NLL {found['nll']:.3f}, Brier {found['brier']:.3f}", fontsize=11)
    shares.bar(left, [b["count"] / found["count"] for b in bins], width, align="edge", color=FAINT, edgecolor="white")
    shares.set(xlabel="confidence (largest probability)", ylim=(0, 1))
