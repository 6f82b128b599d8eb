"""How far fakes of one label lie from each other: G's loss charges what they lack of the reals' distance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from stylegan2_msp.conditioning import level
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.metrics.quality import pixel_features
from stylegan2_msp.training.neighbours import Neighbours, some_reals

_MOST = 8192  # reals that are looked at
_AT_ONCE = 32
_CELLS = 10  # equal intervals of the level, each with a mean of its own
_PACE = 0.05  # share of that mean that a batch with fakes of the cell replaces


@dataclass(frozen=True)
class Diversity:
    """Charges G where two fakes of one label lie nearer to each other than reals of that class and level do.

    Mode seeking (Mao et al. 2019; Yang et al. 2019) asks for distance without end, or up to a bound that is chosen by
    hand; here it is what the reals have. Distances are those of `pixel_features`. Fakes of each level are held to it by
    themselves: in one mean over all levels, sure images that differ more than they need would make up for doubtful ones
    that resemble each other.

    Attributes:
        weight: of the charge in G's loss.
        apart: mean distance of each of some reals from its `neighbours`, float32 [N].
        neighbours: of a label among these reals.
        reached: by interval of the level, running mean of |x_i - x_j| / r(c_i), float32 [10].
    """

    weight: float
    apart: torch.Tensor
    neighbours: Neighbours
    reached: torch.Tensor

    def charge(
        self,
        img: torch.Tensor,
        c: torch.Tensor,
        mean: Callable[[torch.Tensor], torch.Tensor] = lambda value: value,
    ) -> torch.Tensor:
        """Mean of 1 - |x_i - x_j| / r(c_i) over the pairs of fakes of the same label; 0 without pairs.

        r(c) is the mean distance of two reals that are near to c. Pairs of a level that is as varied as reals by its
        running mean count as 0.

        Args:
            img: fakes [n, C, H, W]; the last n // 2 have the labels of the first ones.
            c: their labels [n, c_dim].
            mean: takes the mean over all processes, which have the same running means.
        """
        pairs = len(img) // 2
        if pairs == 0:
            return img.new_zeros(())
        x = pixel_features(img.to(torch.promote_types(img.dtype, torch.float32)))
        distance = torch.linalg.vector_norm(x[:pairs] - x[-pairs:], dim=1)
        share = distance / self.apart[self.neighbours.of(c[:pairs])].mean(dim=1)
        cell = (level(c[:pairs], self.neighbours.num_classes) * _CELLS).long().clamp(0, _CELLS - 1)
        self._follow(cell, share.detach().to(self.reached.dtype), mean)
        return ((1 - share) * (self.reached[cell] < 1)).mean()

    @torch.no_grad()
    def _follow(self, cell: torch.Tensor, share: torch.Tensor, mean: Callable[[torch.Tensor], torch.Tensor]) -> None:
        sums = torch.zeros(2, _CELLS, dtype=share.dtype, device=share.device)
        total, count = mean(sums.index_add_(1, cell, torch.stack([share, torch.ones_like(share)])))
        now = torch.where(count > 0, total / count, self.reached)
        # The first fakes of a level settle it: a G that is no beginner (another run's) must not be paid for distance.
        self.reached.lerp_(now, torch.where(self.reached == 0, 1.0, _PACE).to(now.dtype))


def real_diversity(data: TrainingSet, num_classes: int, weight: float) -> Diversity:
    """Looks at the images of the data; of more than 8,192 at so many. Images that cannot be read are left out.

    A real without others of its class gets the mean of all (infinity where there is none: its charge has no slope).

    Raises:
        UserError: none can be read.
    """
    chosen = some_reals(data, num_classes, _MOST)
    rows, x = data.looked_at(chosen, pixel_features, "looking at distances")
    labels = data.labels[rows]
    neighbours = Neighbours(labels, num_classes)
    apart = torch.empty(len(x), device=x.device)
    for mine in torch.arange(len(x), device=x.device).split(_AT_ONCE):
        near = neighbours.of(labels[mine])
        distance = torch.linalg.vector_norm(x[mine, None] - x[near], dim=2)
        others = near != mine[:, None]
        apart[mine] = (distance * others).sum(dim=1) / others.sum(dim=1)
    apart = torch.where(apart > 0, apart, apart[apart > 0].mean()).nan_to_num(nan=math.inf)
    return Diversity(weight, apart, neighbours, torch.zeros(_CELLS, device=x.device))
