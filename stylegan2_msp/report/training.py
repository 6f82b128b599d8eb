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
from stylegan2_msp.report.grids import MAX_COLUMNS, Caption, class_label, fig3_grid
from stylegan2_msp.report.points import points_panels
from stylegan2_msp.report.style import save_figure
from stylegan2_msp.request import Level
from stylegan2_msp.snapshot import Snapshot
from stylegan2_msp.uncertainty import MEASURES, Measure, Msp

LEVELS = (1.0, 0.9, 0.7, 0.5, 0.3)
_UNCONDITIONAL_COLUMNS = 10
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
    """One column per class, one row per level, z fixed per column: seed k for class k, as `generate` would draw them.

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
    levels: list[Level | None] = [None]
    if generator.takes_u:
        levels = [*grid_levels(generator.num_classes, generator.measure)]
    columns = min(generator.num_classes, MAX_COLUMNS) if generator.takes_class else _UNCONDITIONAL_COLUMNS
    if generator.kind == "points":
        columns = _POINTS
    classes = [k % generator.num_classes if generator.takes_class else None for k in range(columns)]
    return Plan(list(enumerate(classes)), levels)


def save_reals(path: str | Path, archive: Archive, data: npt.NDArray[Any], index: npt.NDArray[Any]) -> None:
    """Real data in the layout of `save_fakes`: of each class the image nearest to each row's level.

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
    columns = np.unique(classes)[:MAX_COLUMNS] if classes is not None else np.arange(_UNCONDITIONAL_COLUMNS)
    levels = grid_levels(archive.num_classes, measure) if u is not None else [None] * 4
    images, captions = {}, {}
    for c, cls in enumerate(columns):
        members = np.arange(c, len(data), len(columns)) if classes is None else np.flatnonzero(classes == cls)
        for r, level in enumerate(levels):
            if level is None or u is None:
                if r < len(members):
                    images[r, c] = data[members[r]]
                continue
            nearest = members[np.abs(u[members] - level).argmin()]
            images[r, c], captions[r, c] = data[nearest], Caption("", float(u[nearest]))
    rows = ["" if level is None else level_label(level, measure) for level in levels]
    heads = [class_label(names[cls]) if classes is not None else "" for cls in columns]
    name = measure.title
    note = f"Real images, of each class the one nearest to the row's {name}; above each its own {name}."
    note = note if captions else ""
    save_figure(fig3_grid(images, rows, heads, captions, note=note), path)
