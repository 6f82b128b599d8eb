"""How often the classifier names reals as their class, by class and level of uncertainty."""

from __future__ import annotations

from typing import Any

import torch

from stylegan2_msp.conditioning import level
from stylegan2_msp.data.archive import Archive

_CELLS = 20  # equal intervals of [0, 1]
_COMMON = 5.0  # reals of any class that count in a cell beside those of the class itself


class ClassAgreement:
    """Class agreement of reals a_y(u), of each class piecewise linear in the level and constant beyond the ends.

    Args:
        levels: float32 [n], rising.
        shares: agreement of each class's reals near each of these levels, float32 [K, n]; [1, n] is one curve for all.
    """

    def __init__(self, levels: torch.Tensor, shares: torch.Tensor) -> None:
        self.levels, self.shares = levels, shares

    def __call__(self, levels: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """a_y(u) for each level u and class y, [n]."""
        levels = levels.to(self.levels.dtype)
        of = classes if len(self.shares) > 1 else torch.zeros_like(classes)
        if len(self.levels) == 1:
            return self.shares[of, 0]
        above = torch.searchsorted(self.levels, levels.contiguous()).clamp(1, len(self.levels) - 1)
        low, high = self.levels[above - 1], self.levels[above]
        place = ((levels - low) / (high - low)).clamp(0, 1)
        return torch.lerp(self.shares[of, above - 1], self.shares[of, above], place)

    def may_hold(self, level: float, distance: float) -> bool:
        """Whether any of the reals can lie within a distance of a level; of each cell only the mean is known."""
        return bool((self.levels - level).abs().min() <= distance + 1 / _CELLS)

    def to(self, device: torch.device | str) -> ClassAgreement:
        """The same on a device."""
        return ClassAgreement(self.levels.to(device), self.shares.to(device))

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain JSON data."""
        return {"levels": self.levels.tolist(), "shares": self.shares.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], num_classes: int) -> ClassAgreement:
        """From `to_dict`'s; raises KeyError, TypeError or ValueError for anything else."""
        levels, shares = (torch.tensor(values[name], dtype=torch.float32) for name in ("levels", "shares"))
        if shares.ndim == 1:  # networks of before had one curve for all classes
            shares = shares[None]
        if levels.ndim != 1 or shares.ndim != 2 or not len(levels) or not bool((levels.diff() > 0).all()):
            raise ValueError("agreement: levels must rise, and classes have one share each")
        if len(shares) not in (1, num_classes) or shares.shape[1] != len(levels):
            raise ValueError("agreement: each class must have one share for each level")
        return cls(levels, shares)


def archive_agreement(archive: Archive) -> ClassAgreement | None:
    """Of an annotated archive's items; None where it does not record what the classifier named them."""
    right = archive.named_right()
    if right is None or not archive.annotated:
        return None
    return real_agreement(torch.from_numpy(archive.labels()), torch.from_numpy(right), archive.num_classes)


def real_agreement(labels: torch.Tensor, right: torch.Tensor, num_classes: int) -> ClassAgreement:
    """Counts it in cells of 0.05 that hold reals, each at its reals' mean level.

    In a cell five reals of the whole cell's agreement count beside the class's own: where a class has few, it has about
    that of all, and where it has many, its own.

    Args:
        labels: of all reals, float32 [N, K + 1] or [N, 2 K].
        right: whether the classifier names each as its class, bool [N].
        num_classes: K.
    """
    K, device = num_classes, labels.device
    levels, classes = level(labels, K), labels[:, :K].argmax(dim=1)
    held, cell, counts = (levels * _CELLS).long().clamp(0, _CELLS - 1).unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(2, len(held), dtype=torch.float64, device=device)
    sums.index_add_(1, cell, torch.stack([levels, right.to(levels.dtype)]).double())
    mean_level, common = sums / counts
    own = torch.zeros(2, K * len(held), dtype=torch.float64, device=device)
    both = torch.stack([torch.ones_like(levels), right.to(levels.dtype)]).double()
    own.index_add_(1, classes * len(held) + cell, both)
    number, named = own.reshape(2, K, len(held))
    shares = (named + _COMMON * common) / (number + _COMMON)
    return ClassAgreement(mean_level.float(), shares.float())
