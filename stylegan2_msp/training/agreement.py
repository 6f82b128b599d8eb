"""How often the classifier names reals as their class, as a function of their level of uncertainty."""

from __future__ import annotations

import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.conditioning import level
from stylegan2_msp.data.dataset import TrainingSet

_CELLS = 20  # equal intervals of [0, 1]
_PER_CELL = 1000  # reals that the agreement of a cell is taken from, at most


class ClassAgreement:
    """Class agreement of reals a(u), piecewise linear in their level and constant beyond the ends.

    Args:
        levels: float32 [n], rising.
        shares: agreement of reals near each of these levels, float32 [n].
    """

    def __init__(self, levels: torch.Tensor, shares: torch.Tensor) -> None:
        self.levels, self.shares = levels, shares

    def __call__(self, levels: torch.Tensor) -> torch.Tensor:
        """a(u) for each level, [n]."""
        if len(self.levels) == 1:
            return self.shares.expand(len(levels))
        above = torch.searchsorted(self.levels, levels.contiguous()).clamp(1, len(self.levels) - 1)
        low, high = self.levels[above - 1], self.levels[above]
        return torch.lerp(self.shares[above - 1], self.shares[above], ((levels - low) / (high - low)).clamp(0, 1))


@torch.no_grad()
def real_agreement(classifier: FrozenClassifier, data: TrainingSet, batch: int = 500) -> ClassAgreement:
    """Counts it in cells of 0.05 that hold reals, on up to 1000 evenly spaced samples of each, at their mean level."""
    K = classifier.num_classes
    levels = level(data.labels, K)
    cell = (levels * _CELLS).long().clamp(0, _CELLS - 1)
    found = []
    for k in cell.unique().tolist():
        rows = (cell == k).nonzero()[:, 0]
        rows = rows[:: max(1, len(rows) // _PER_CELL)]
        right = [
            classifier(data.reals(some)).argmax(dim=1) == data.labels[some, :K].argmax(dim=1)
            for some in rows.split(batch)
        ]
        found.append(torch.stack([levels[rows].mean(), torch.cat(right).float().mean()]))
    points = torch.stack(found)
    return ClassAgreement(points[:, 0].contiguous(), points[:, 1].contiguous())
