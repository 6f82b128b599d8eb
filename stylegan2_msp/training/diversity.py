"""How far fakes of one label lie from each other: G's loss charges what they lack of the reals' distance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.metrics.quality import pixel_features
from stylegan2_msp.training.neighbours import Neighbours, some_reals

_MOST = 8192  # reals that are looked at
_AT_ONCE = 32


@dataclass(frozen=True)
class Diversity:
    """Charges G where two fakes of one label lie nearer to each other than reals of that class and level do.

    Mode seeking (Mao et al. 2019; Yang et al. 2019) asks for distance without end, or up to a bound that is chosen by
    hand; here it is what the reals have. Distances are those of `pixel_features`.

    Attributes:
        weight: of the charge in G's loss.
        apart: mean distance of each of some reals from its `neighbours`, float32 [N].
        neighbours: of a label among these reals.
    """

    weight: float
    apart: torch.Tensor
    neighbours: Neighbours

    def charge(
        self,
        img: torch.Tensor,
        c: torch.Tensor,
        mean: Callable[[torch.Tensor], torch.Tensor] = lambda value: value,
    ) -> torch.Tensor:
        """max(0, 1 - mean |x_i - x_j| / r(c_i)) over the pairs of fakes of the same label; 0 without pairs.

        r(c) is the mean distance of two reals that are near to c.

        Args:
            img: fakes [n, C, H, W]; the last n // 2 have the labels of the first ones.
            c: their labels [n, c_dim].
            mean: takes the mean over all processes; whether anything is charged is settled for their whole batch, so
                that a single one may come to less than 0, and the mean over all does not.
        """
        pairs = len(img) // 2
        if pairs == 0:
            return img.new_zeros(())
        x = pixel_features(img.to(torch.promote_types(img.dtype, torch.float32)))
        distance = torch.linalg.vector_norm(x[:pairs] - x[-pairs:], dim=1)
        r = self.apart[self.neighbours.of(c[:pairs])].mean(dim=1)
        lack = 1 - (distance / r).mean()
        return lack * (mean(lack.detach()) > 0)


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
    return Diversity(weight, apart, neighbours)
