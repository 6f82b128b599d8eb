"""The pictures of a training run: levels of uncertainty from top to bottom, classes from left to right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Grid = tuple[tuple[int, int], np.ndarray, np.ndarray]
_MOST_PIXELS, _MOST_CELLS, _ROWS = (7680, 4320), 32, 8


def grid_or(plain: Callable[..., Grid]) -> Callable[..., Grid]:
    """The checkout's choice of samples; of a data set with levels that of `levels_by_class`."""

    def setup(training_set: Any, random_seed: int = 0) -> Grid:
        num_classes = getattr(training_set, "num_classes", 0)
        if not num_classes:
            return plain(training_set, random_seed)
        size = training_set.resolution
        width, height = (int(np.clip(most // size, 4, _MOST_CELLS)) for most in _MOST_PIXELS)
        grid, picked = levels_by_class(training_set.classes, training_set.levels, num_classes, width, height)
        images, labels = zip(*(training_set.recorded(i) for i in picked), strict=True)
        return grid, np.stack(images), np.stack(labels)

    return setup


def levels_by_class(
    classes: np.ndarray, levels: np.ndarray, num_classes: int, width: int, height: int
) -> tuple[tuple[int, int], list[int]]:
    """Samples for a grid of at most ``width`` by ``height``.

    Row r asks for the level that lies r steps below the data's highest, in equal steps to their lowest; each class
    that fits has as many columns as all of them have room for. A cell shows the sample of its class that is nearest
    to its level, the columns of one class the nearest ones in turn.

    Args:
        classes: int64 [N].
        levels: float [N].

    Returns:
        (columns, rows), and the samples' indices row by row.
    """
    present = [k for k in range(num_classes) if (classes == k).any()][:width]
    repeats = max(1, min(width // len(present), 2))
    rows = min(height, _ROWS)
    picked = []
    for wanted in np.linspace(levels.max(), levels.min(), rows):
        for k in present:
            own = np.flatnonzero(classes == k)
            nearest = own[np.argsort(np.abs(levels[own] - wanted), kind="stable")]
            picked += [int(nearest[i % len(nearest)]) for i in range(repeats)]
    return (len(present) * repeats, rows), picked
