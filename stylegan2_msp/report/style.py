"""One look for every figure: light, colour-blind-safe, readable at half size, drawn without a display."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from stylegan2_msp.errors import UserError
from stylegan2_msp.files import make_folder, replacing

# Okabe and Ito's colours, which stay apart for every kind of colour vision.
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
INK, FAINT, GRID = "#222222", "#767676", "#DDDDDD"
CYCLE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, "#56B4E9")
MARKERS = "o^sDvPX*"
FORMATS = ("png", "pdf", "svg")
DPI = 150
# Low MSP is bright and rare, high MSP dark; plasma without its yellow end, which is lost on white.
MSP_MAP = LinearSegmentedColormap.from_list("msp", matplotlib.colormaps["plasma_r"](np.linspace(0.2, 0.97, 64)))

# Fonts for names of classes that DejaVu Sans lacks letters of; those that are installed are used, in this order.
FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK TC", "Noto Sans SC", "Noto Sans JP",
    "Noto Sans KR", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback",
    "IPAexGothic", "NanumGothic", "Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "PingFang SC",
    "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Bengali",
    "Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI", "Leelawadee UI",
)  # fmt: skip


def font_families() -> list[str]:
    """DejaVu Sans, which comes with matplotlib, and the fallbacks that are installed; matplotlib warns of others."""
    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in FALLBACKS if name in installed)]


STYLE: Any = {
    "font.size": 12,
    "font.family": font_families(),
    "axes.titlesize": 13,
    "axes.labelsize": 12.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.linewidth": 2.0,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "stylegan2-msp",
}


@contextmanager
def styled() -> Iterator[None]:
    """The common style inside the block; matplotlib's own settings are as before after it."""
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """An empty figure of that many inches on a canvas that needs no display and no global state."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def figure_format(path: str | Path) -> str:
    """'png', 'pdf' or 'svg' by the file's ending; raises `UserError` for another."""
    ending = Path(path).suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise UserError(f"{path}: a figure is written as {', '.join('.' + f for f in FORMATS)}, found {ending!r}")
    return ending


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure by its file's ending; an older file is replaced only by a complete one.

    Letters that no font has come out as boxes, which is said once per process.

    Raises:
        UserError: another ending, or the place cannot be written.
    """
    ending = figure_format(path)
    make_folder(Path(path).parent)
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[ending]
    with warnings.catch_warnings(record=True) as said, styled(), replacing(path) as temporary:
        figure.savefig(temporary, format=ending, metadata=metadata)
    for warning in said:
        if str(warning.message).startswith("Glyph ") and "missing from" in str(warning.message):
            _say_boxes()
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@cache
def _say_boxes() -> None:
    cure = f"install one that has, such as Noto Sans CJK, and delete matplotlib's list in {matplotlib.get_cachedir()}"
    print(f"figures show letters that no font here has as boxes; {cure}", file=sys.stderr, flush=True)


def identity_line(axes: Any, low: float, high: float, label: str = "out = in") -> None:
    """The dashed diagonal on which output equals input."""
    axes.plot([low, high], [low, high], linestyle="--", color=INK, linewidth=1.4, label=label, zorder=2.5)


def legend_below(axes: Any, columns: int) -> None:
    """The legend under the axes' label, where no data lie."""
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.11),
        ncols=columns,
        fontsize=10.5,
        columnspacing=1.2,
        markerscale=1.2,
    )
