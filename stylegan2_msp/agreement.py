"""How often the classifier names reals as their class, as a function of their level of uncertainty."""

from __future__ import annotations

from typing import Any

import torch

from stylegan2_msp.conditioning import level
from stylegan2_msp.data.archive import Archive

_CELLS = 20  # equal intervals of [0, 1]


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

    def may_hold(self, level: float, distance: float) -> bool:
        """Whether any of the reals can lie within a distance of a level; of each cell only the mean is known."""
        return bool((self.levels - level).abs().min() <= distance + 1 / _CELLS)

    def to(self, device: torch.device | str) -> ClassAgreement:
        """The same on a device."""
        return ClassAgreement(self.levels.to(device), self.shares.to(device))

    def to_dict(self) -> dict[str, list[float]]:
        """Plain JSON data."""
        return {"levels": self.levels.tolist(), "shares": self.shares.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClassAgreement:
        """From `to_dict`'s; raises KeyError, TypeError or ValueError for anything else."""
        levels, shares = (torch.tensor(values[name], dtype=torch.float32) for name in ("levels", "shares"))
        if levels.ndim != 1 or levels.shape != shares.shape or not len(levels) or not bool((levels.diff() > 0).all()):
            raise ValueError("agreement: levels must rise and have one share each")
        return cls(levels, shares)


def archive_agreement(archive: Archive) -> ClassAgreement | None:
    """Of an annotated archive's items; None where it does not record what the classifier named them."""
    right = archive.named_right()
    if right is None or not archive.annotated:
        return None
    return real_agreement(level(torch.from_numpy(archive.labels()), archive.num_classes), torch.from_numpy(right))


def real_agreement(levels: torch.Tensor, right: torch.Tensor) -> ClassAgreement:
    """Counts it in cells of 0.05 that hold reals, each at its reals' mean level.

    Args:
        levels: of all reals, float32 [N].
        right: whether the classifier names each as its class, bool [N].
    """
    cell = (levels * _CELLS).long().clamp(0, _CELLS - 1)
    held, cell, counts = cell.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(2, len(held), dtype=torch.float64, device=levels.device)
    sums.index_add_(1, cell, torch.stack([levels, right.to(levels.dtype)]).double())
    mean_level, share = (sums / counts).float()
    return ClassAgreement(mean_level, share)
