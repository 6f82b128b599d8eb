"""The pictures of a running training: the real data once, fakes at every snapshot, laid out alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.data.archive import Archive
from stylegan2_msp.generation import ConditionalGenerator
from stylegan2_msp.report.generated import Plan, level_label, measure_levels, picture_of
from stylegan2_msp.report.grids import MAX_COLUMNS, Caption, class_labels, fig3_grid
from stylegan2_msp.report.points import points_panels
from stylegan2_msp.report.style import save_figure
from stylegan2_msp.request import Level
from stylegan2_msp.snapshot import Snapshot
from stylegan2_msp.uncertainty import MEASURES, Measure, Msp

LEVELS = (1.0, 0.9, 0.7, 0.5, 0.3)
_UNCONDITIONAL_COLUMNS = 10
_MOST_OF_A_CLASS = 3  # columns; one alone would hide that G repeats itself
_POINTS = 300
_POINTS_OF_REALS = 2000


def grid_levels(num_classes: int, measure: Measure | None = None) -> list[float]:
    """The rows of the pictures: MSP 1.0, 0.9, 0.7, 0.5, 0.3 as far as K classes can have them, or their like."""
    return measure_levels(measure or Msp(), num_classes, LEVELS)


def save_fakes(
    path: str | Path,
    G: torch.nn.Module,
    classifier: FrozenClassifier | None,
    archive: Archive,
    condition: str,
    batch: int = 32,
) -> None:
    """Up to three columns per class, one row per level, z fixed per column: seeds k, K + k, 2 K + k for class k, as
    `generate` would draw them.

    For points: a scatter at every level. Draws nothing from any global random state.
    """
    info = {
        "kind": archive.kind,
        "num_classes": archive.num_classes,
        "class_names": archive.class_names,
        "condition": condition,
        "uncertainty": archive.uncertainty,
    }
    device = next(G.parameters()).device
    generator = ConditionalGenerator(Snapshot(G, classifier, info, Path(path)), device)
    save_figure(picture_of(generator, fakes_plan(generator), batch), path)


def fakes_plan(generator: ConditionalGenerator) -> Plan:
    """Which (seed, class) pairs and levels `save_fakes` shows."""
    K = generator.num_classes
    levels: list[Level | None] = [None]
    if generator.takes_u:
        levels = [*grid_levels(generator.num_classes, generator.measure)]
    if generator.kind == "points":
        return Plan([(k, k % K if generator.takes_class else None) for k in range(_POINTS)], levels)
    if not generator.takes_class:
        return Plan([(k, None) for k in range(_UNCONDITIONAL_COLUMNS)], levels)
    pairs = [(k + K * i, k) for k in range(min(K, MAX_COLUMNS)) for i in range(columns_per_class(K))]
    return Plan(pairs, levels)


def columns_per_class(num_classes: int) -> int:
    """How many images of a class stand side by side."""
    return min(max(MAX_COLUMNS // num_classes, 1), _MOST_OF_A_CLASS)


def save_reals(path: str | Path, archive: Archive, data: npt.NDArray[Any], index: npt.NDArray[Any]) -> None:
    """Real data in the layout of `save_fakes`: of each class the images nearest to each row's level.

    Above each image stands its own level, for a rare level may have no real image near it.

    Args:
        archive: where the data come from.
        data: uint8 [N, C, H, W] or points [N, 2].
        index: position of each of the N in the archive.
    """
    names = archive.class_names or [str(k) for k in range(archive.num_classes)]
    classes = None if archive.classes is None else archive.classes[index]
    u = archive.levels()[index] if archive.annotated else None
    measure = MEASURES[archive.uncertainty or "msp"]()
    if archive.kind == "points":
        first = slice(0, _POINTS_OF_REALS)
        shown = np.zeros(len(data), int) if classes is None else classes
        colour = np.ones(len(data)) if u is None else u
        panel = (f"Real, coloured by {measure.title}", data[first], shown[first], colour[first])
        save_figure(points_panels([panel], names, measure), path)
        return
    shown_classes = np.unique(classes)[:MAX_COLUMNS] if classes is not None else np.arange(_UNCONDITIONAL_COLUMNS)
    beside = columns_per_class(archive.num_classes) if classes is not None else 1
    levels = grid_levels(archive.num_classes, measure) if u is not None else [None] * 4
    images, captions = {}, {}
    for k, cls in enumerate(shown_classes):
        members = np.arange(k, len(data), len(shown_classes)) if classes is None else np.flatnonzero(classes == cls)
        for r, level in enumerate(levels):
            if level is None or u is None:
                picked = members[r * beside : (r + 1) * beside]
            else:
                picked = members[np.abs(u[members] - level).argsort(kind="stable")[:beside]]
            for c, row in enumerate(picked, k * beside):
                images[r, c] = data[row]
                if u is not None:
                    captions[r, c] = Caption("", float(u[row]))
    rows = ["" if level is None else level_label(level, measure) for level in levels]
    labels = class_labels(names)
    heads = [labels[cls] if classes is not None else "" for cls in shown_classes for _ in range(beside)]
    name = measure.title
    note = f"Real images, of each class those nearest to the row's {name}; above each its own {name}."
    note = note if captions else ""
    save_figure(fig3_grid(images, rows, heads, captions, note=note), path)
