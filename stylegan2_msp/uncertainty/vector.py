"""The full softmax vector as a measure of K numbers."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from stylegan2_msp.uncertainty.measure import Measure, of_class


@dataclass(frozen=True)
class Softmax(Measure):
    """The whole vector p, K numbers that sum to 1 (Le Coz 2023, section 4: future work); its level is p_y.

    A level u of class y stands for the vector with p_y = u whose other classes share 1 - u as they do on average in
    real images of class y.

    Attributes:
        shares: of class y (row) the shares of the other classes, [K, K] with zeros on the diagonal and rows that sum
            to 1; recorded at annotation. Without it they are equal.
    """

    shares: tuple[tuple[float, ...], ...] = ()

    name = "softmax"
    title = "probability of the class"
    of_class = True
    probability = True

    def size(self, num_classes: int) -> int:
        """K."""
        return num_classes

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """p, [N, K]."""
        return logits.softmax(dim=1)

    def level(self, values: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """p_y, [N]."""
        return of_class(values, classes)

    def rows(self, classes: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """p with p_y = level, [N, K]."""
        if not self.shares:
            raise ValueError("a softmax vector for a level needs the shares of the other classes; fit the measure")
        table = _table(self.shares, levels.dtype, levels.device)
        own = torch.eye(len(table), dtype=levels.dtype, device=levels.device)[classes]
        return own * levels[:, None] + table[classes] * (1 - levels[:, None])

    def fitted(self, logits: torch.Tensor, classes: torch.Tensor) -> Measure:
        """Shares from the mean of p over the images of each class."""
        count = logits.shape[1]
        p = logits.double().softmax(dim=1)
        total = torch.full((count, count), 1e-12, dtype=p.dtype, device=p.device).index_add_(0, classes, p)
        total.fill_diagonal_(0)
        table = (total / total.sum(dim=1, keepdim=True)).float()
        return replace(self, shares=tuple(tuple(row) for row in table.tolist()))


@functools.lru_cache(maxsize=8)
def _table(shares: tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On the device once, so that training need not wait for it in every step."""
    with torch.inference_mode(False):
        return torch.tensor(shares, dtype=dtype, device=device)
