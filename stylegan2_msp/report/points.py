"""Figures of 2-D data: points coloured by MSP or another measure, one marker per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stylegan2_msp.report.style import INK, MARKERS, MSP_MAP, new_figure, styled
from stylegan2_msp.uncertainty import Measure, Msp

Panel = tuple[str, npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]


def fig2a_points(
    real: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike],
    fake: tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike],
    class_names: Sequence[str],
    measure: Measure | None = None,
) -> Figure:
    """Real points coloured by their MSP beside generated ones coloured by the MSP asked for (Fig. 2a, Le Coz 2023).

    Args:
        real, fake: coordinates [N, 2], classes [N] and level [N].
        class_names: K names.
        measure: of the levels; MSP by default.
    """
    title = (measure or Msp()).title
    panels: list[Panel] = [
        (f"Real, coloured by {title}", *real),
        (f"Generated, coloured by {title} asked for", *fake),
    ]
    return points_panels(panels, class_names, measure)


def points_asked_and_got(
    xy: npt.ArrayLike,
    classes: npt.ArrayLike,
    asked: npt.ArrayLike,
    got: npt.ArrayLike | None,
    class_names: Sequence[str],
    measure: Measure | None = None,
) -> Figure:
    """Generated points coloured by the level asked for and, where a classifier answered, by the one that it gives."""
    title = (measure or Msp()).title
    panels: list[Panel] = [(f"Generated, coloured by {title} asked for", xy, classes, asked)]
    if got is not None:
        panels.append((f"The same, coloured by {title} out", xy, classes, got))
    return points_panels(panels, class_names, measure)


def points_panels(panels: Sequence[Panel], class_names: Sequence[str], measure: Measure | None = None) -> Figure:
    """One scatter per (title, coordinates [N, 2], classes [N], level [N]), all with the same axes and colours."""
    measure = measure or Msp()
    count = max(len(class_names), 2)
    norm = Normalize(measure.low(count), measure.high(count))
    colours = MSP_MAP if measure.certain == "high" else MSP_MAP.reversed()
    everything = np.concatenate([np.asarray(xy, float) for _, xy, _, _ in panels])
    low, high = everything.min(axis=0), everything.max(axis=0)
    margin = 0.05 * np.maximum(high - low, 1e-6)
    with styled():
        figure = new_figure(5.6 * len(panels) + 1, 5.2)
        axes_row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (title, xy, classes, u) in zip(axes_row, panels, strict=True):
            mappable = ScalarMappable(norm, colours)
            _scatter(axes, np.asarray(xy, float), np.asarray(classes), np.asarray(u, float), mappable)
            axes.set_title(title, loc="left")
            axes.set(xlabel="x₁", xlim=(low[0] - margin[0], high[0] + margin[0]))
            axes.set(ylim=(low[1] - margin[1], high[1] + margin[1]))
        axes_row[0].set_ylabel("x₂")
        axes_row[0].legend(handles=_class_handles(class_names), loc="best", handletextpad=0.1)
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=list(axes_row), pad=0.01)
        bar.set_label(measure.title)
        bar.outline.set_visible(False)
    return figure


def _scatter(
    axes: Any, xy: npt.NDArray[Any], classes: npt.NDArray[Any], u: npt.NDArray[Any], mappable: ScalarMappable
) -> None:
    size = float(np.clip(18000 / max(len(xy), 1), 11, 60))
    for cls in np.unique(classes):
        rows = classes == cls
        certain = u[rows] if mappable.cmap is MSP_MAP else -u[rows]
        order = np.argsort(-certain, kind="stable")  # the rare uncertain points on top
        x, y = xy[rows][order].T
        marker, colours = MARKERS[int(cls) % len(MARKERS)], mappable.to_rgba(u[rows][order])
        axes.scatter(x, y, c=colours, s=size, marker=marker, linewidths=0, alpha=0.85)


def _class_handles(class_names: Sequence[str]) -> list[Line2D]:
    return [
        Line2D([], [], linestyle="", marker=MARKERS[k % len(MARKERS)], color=INK, markersize=7, label=f"class {name}")
        for k, name in enumerate(class_names[:10])
    ]
