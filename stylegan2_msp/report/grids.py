"""Grids of images: rows of equal MSP, one column per seed or class, the classifier's answer above each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from stylegan2_msp.report.style import FAINT, INK, VERMILION, new_figure, styled

MAX_COLUMNS = 20
MAX_ROWS = 12
_CELL = 0.85  # inches that an image is wide
_NAME_LENGTH = 10


@dataclass(frozen=True)
class Caption:
    """What stands above an image: predicted class (as `short_names` has it), how sure the answer is, and whether it is
    the class asked for.
    """

    name: str
    probability: float
    agrees: bool = True

    def lines(self, split: bool) -> str:
        """The text, on two lines where names are long; without a name the probability alone."""
        if not self.name:
            return f"{self.probability:.2f}"
        return f"{self.name}{chr(10) if split else ': '}{self.probability:.2f}"


def fig3_grid(
    images: Mapping[tuple[int, int], npt.NDArray[np.uint8]],
    rows: Sequence[str],
    columns: Sequence[str],
    captions: Mapping[tuple[int, int], Caption] | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """Grid like Fig. 3 of Le Coz 2023: each image with the classifier's prediction and probability above it.

    Args:
        images: uint8 [C, H, W] with C in {1, 3}, by (row, column); a missing one leaves its cell empty.
        rows: label at the left of each row ('MSP 0.7').
        columns: label above each column.
        captions: what stands above the images, by (row, column).
        title, note: line above and line below the grid.
    """
    captions = captions or {}
    split = any(len(c.name) > 2 for c in captions.values())
    lines = max((c.lines(split).count("\n") + 1 for c in captions.values()), default=0)
    head = 0.14 + 0.21 * lines if lines else 0.1  # room above an image, in image widths
    step_x, step_y = 1.1, 1.0 + head
    left = 0.35 + 0.13 * max((len(line) for row in rows for line in row.split("\n")), default=0)
    top = (0.5 if title else 0.1) + 0.32 * max((name.count("\n") + 1 for name in columns if name), default=0)
    width = max(len(columns) * step_x + left, 5.0)
    note = "\n".join(wrap(note, int(width * 10.8)))
    height = len(rows) * step_y + top + 0.3 + (0.22 * (note.count("\n") + 1) if note else 0)
    with styled():
        figure = new_figure(width * _CELL, height * _CELL, layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for c, name in enumerate(columns):
            axes.text(left + c * step_x + 0.5, top - 0.02, name, ha="center", va="bottom", fontsize=10.5, color=FAINT)
        for r, name in enumerate(rows):
            axes.text(left - 0.15, top + r * step_y + head + 0.5, name, ha="right", va="center", fontsize=12)
        for (r, c), image in images.items():
            _place(axes, image, left + c * step_x, top + r * step_y + head, captions.get((r, c)), split)
        if title:
            axes.text(0.15, 0.12, title, ha="left", va="top", fontsize=12.5)
        if note:
            axes.text(0.15, height - 0.12, note, ha="left", va="bottom", fontsize=10, color=FAINT)
    return figure


def spread(count: int, limit: int) -> list[int]:
    """Indices of at most ``limit`` of ``count`` things, evenly spread, first and last among them."""
    return list(range(count)) if count <= limit else [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def _place(axes: Any, image: npt.NDArray[np.uint8], x: float, y: float, caption: Caption | None, split: bool) -> None:
    picture = np.moveaxis(image, 0, -1)
    if picture.shape[-1] == 1:
        picture = np.repeat(picture, 3, axis=-1)
    axes.imshow(picture, extent=(x, x + 1, y + 1, y), interpolation="nearest", aspect="auto", zorder=1)
    axes.plot([x, x + 1, x + 1, x, x], [y, y, y + 1, y + 1, y], color=FAINT, linewidth=0.5, zorder=2)
    if caption is not None:
        colour, weight = (INK, "normal") if caption.agrees else (VERMILION, "bold")
        text = caption.lines(split)
        axes.text(x + 0.5, y - 0.03, text, ha="center", va="bottom", fontsize=10.5, color=colour, fontweight=weight)


def short_names(names: Sequence[str]) -> list[str]:
    """The names of classes as they fit above an image, long ones on two lines; what differs stays different.

    Of what is too long for two lines the second has the end, or, where that tells too little, the class's number.
    """
    cut = [_two_lines(name) for name in names]
    often = Counter(cut)
    return [
        f"{names[k][:_NAME_LENGTH].rstrip()}\n… ({k})" if label != names[k] and often[label] > 1 else label
        for k, label in enumerate(cut)
    ]


def _two_lines(name: str) -> str:
    lines = wrap(" ".join(map(_halved, name.split())), _NAME_LENGTH) if len(name) > _NAME_LENGTH else [name]
    return "\n".join(lines if len(lines) < 3 else [lines[0], "…" + name[3 - _NAME_LENGTH :].lstrip()])


def _halved(word: str) -> str:
    """With a hyphen in its middle where it is too long for a line and has none."""
    middle = (len(word) + 1) // 2
    return f"{word[:middle]}-{word[middle:]}" if len(word) > _NAME_LENGTH and "-" not in word else word


def class_labels(names: Sequence[str]) -> list[str]:
    """The names of classes as labels of columns: 'class 3' where one is a bare number or letter."""
    return [f"class {name}" if len(name) < 2 or name.isdecimal() else name for name in short_names(names)]
