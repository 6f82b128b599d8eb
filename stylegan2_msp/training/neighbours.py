"""Which reals an image of a class and level is compared with: those of its class that are nearest in level."""

from __future__ import annotations

import torch

from stylegan2_msp.conditioning import level
from stylegan2_msp.data.dataset import TrainingSet, flat_weights

COUNT = 64
_STRIDE = 4.0  # keys of the order: 4 k + u


class Neighbours:
    """The 64 reals of a label's class that are nearest to it in level, 32 on either side.

    Args:
        labels: of the reals, [N, K + 1] or [N, 2 K].
        num_classes: K.

    Attributes:
        order: int64 [N]; position p of the order by class and level is real ``order[p]``.
    """

    def __init__(self, labels: torch.Tensor, num_classes: int) -> None:
        self.num_classes = num_classes
        self.keys, self.order = self._keys(labels).sort()
        bounds = torch.arange(num_classes + 1, device=labels.device).double() * _STRIDE - _STRIDE / 2
        self.first = torch.searchsorted(self.keys, bounds)  # of class k; the next one's is the end

    def of(self, c: torch.Tensor) -> torch.Tensor:
        """Their indices for labels c [n, c_dim], int64 [n, 64]; of more that are equally near an even choice.

        A class of fewer has some of them more than once; one without reals borrows others'.
        """
        keys, classes = self._keys(c), c[:, : self.num_classes].argmax(dim=1)
        low, high = torch.searchsorted(self.keys, keys), torch.searchsorted(self.keys, keys, right=True)
        middle, half = (low + high) // 2, COUNT // 2
        low = torch.minimum(low, middle - half).clamp(min=self.first[classes])
        high = torch.maximum(high, middle + half).clamp(max=self.first[classes + 1])
        places = (torch.arange(COUNT, device=c.device) + 0.5) / COUNT
        rows = (low[:, None] + (high - low)[:, None] * places).long()
        return self.order[rows.clamp(max=len(self.order) - 1)]

    def _keys(self, c: torch.Tensor) -> torch.Tensor:
        return c[:, : self.num_classes].argmax(dim=1) * _STRIDE + level(c, self.num_classes).double()


def some_reals(data: TrainingSet, num_classes: int, most: int) -> torch.Tensor:
    """Indices of all reals, or of ``most`` of more, half of them spread evenly over the levels of each class."""
    if len(data) <= most:
        return torch.arange(len(data), device=data.labels.device)
    weights = 1 / len(data) + flat_weights(data.labels, num_classes)
    places = (torch.arange(most, device=weights.device) + 0.5) / most * weights.sum()
    return torch.searchsorted(weights.cumsum(0), places).clamp(max=len(data) - 1).unique()
