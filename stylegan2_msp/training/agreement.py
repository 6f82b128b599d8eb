"""How often fakes are named as the class that was asked for, per level of uncertainty, next to how often reals are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.conditioning import level
from stylegan2_msp.data.dataset import TrainingSet

CELLS = 10  # equal intervals of [0, 1]
_HALF_LIFE = 2000  # fakes after which an observation counts half
_FULL = 0.05  # shortfall of agreement that counts as a whole one
_PER_CELL = 1000  # reals that the agreement of a cell is taken from, at most


class ClassAgreement:
    """Running class agreement of fakes in each cell of levels, and where it falls short of the reals'.

    Args:
        real: agreement of reals per cell, float32 [CELLS].
        mean: takes the mean of a tensor over all processes.
    """

    def __init__(self, real: torch.Tensor, mean: Callable[[torch.Tensor], torch.Tensor] = lambda value: value) -> None:
        self.real = real
        self.mean = mean
        self.sums = torch.zeros(2, CELLS, device=real.device)  # fakes named as asked for, and all fakes

    def observe(self, levels: torch.Tensor, right: torch.Tensor, total: int) -> None:
        """Takes in this process's fakes.

        Args:
            levels: asked for, [n].
            right: whether f names the class asked for, bool [n].
            total: fakes of all processes together.
        """
        cell = cells(levels)
        new = torch.zeros_like(self.sums)
        new[0].index_add_(0, cell, right.to(new.dtype))
        new[1].index_add_(0, cell, torch.ones_like(levels))
        self.sums = self.sums * 0.5 ** (total / _HALF_LIFE) + self.mean(new) * (total / len(levels))

    def shortfall(self, levels: torch.Tensor) -> torch.Tensor:
        """For each level [n] a number in [0, 1]: 0 where fakes agree as often as reals, 1 from 5 points less on."""
        fakes = self.sums[0] / self.sums[1].clamp_min(1e-6)
        missing = torch.where(self.sums[1] > 0, self.real - fakes, torch.zeros_like(fakes))
        return (missing / _FULL).clamp(0, 1)[cells(levels)]

    def state_dict(self) -> dict[str, Any]:
        """The running sums."""
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from saved sums."""
        self.sums = state["sums"].to(self.sums.device)


def cells(levels: torch.Tensor) -> torch.Tensor:
    """Cell of each level, int64 in [0, CELLS)."""
    return (levels * CELLS).long().clamp(0, CELLS - 1)


@torch.no_grad()
def real_agreement(classifier: FrozenClassifier, data: TrainingSet, batch: int = 500) -> torch.Tensor:
    """Share of reals that f names as their class, per cell of their level, float32 [CELLS].

    It looks at up to 1000 evenly spaced samples of each cell. A cell without reals takes over its nearest neighbour's.
    """
    K = classifier.num_classes
    levels = level(data.labels, K)
    cell = cells(levels)
    found = torch.full((CELLS,), torch.nan, device=levels.device)
    for k in range(CELLS):
        rows = (cell == k).nonzero()[:, 0]
        rows = rows[:: max(1, len(rows) // _PER_CELL)]
        right = [
            classifier(data.reals(some)).argmax(dim=1) == data.labels[some, :K].argmax(dim=1)
            for some in rows.split(batch)
            if len(some)
        ]
        if right:
            found[k] = torch.cat(right).float().mean()
    known = (~found.isnan()).nonzero()[:, 0]
    every = torch.arange(CELLS, device=found.device)
    return found[known[(every[:, None] - known).abs().argmin(dim=1)]]
