"""How far fakes of a class lie from each other: G's loss charges what they lack of the reals' distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from stylegan2_msp.data.dataset import SampleOrder, TrainingSet
from stylegan2_msp.metrics.quality import pixel_features

_OF_A_CLASS, _MOST = 128, 16_384  # reals that are looked at, on average of each class, and in all


@dataclass(frozen=True)
class Diversity:
    """Charges G where fakes of a class lie nearer to each other than reals of that class do.

    Mode seeking (Mao et al. 2019; Yang et al. 2019) asks for distance without end, or up to a bound that is chosen by
    hand; here it is what the reals have. Distances are those of `pixel_features`.

    Attributes:
        weight: of the charge in G's loss.
        apart: r_k, the mean distance of two reals of class k as training draws them, float32 [K].
    """

    weight: float
    apart: torch.Tensor

    def charge(self, img: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """max(0, 1 - mean |x_i - x_j| / r_k) over all pairs of fakes of the same class k; 0 without pairs.

        Args:
            img: fakes [N, C, H, W].
            c: their labels [N, c_dim].
        """
        classes = c[:, : len(self.apart)].argmax(dim=1)
        first, second = torch.triu(classes[:, None] == classes, diagonal=1).nonzero(as_tuple=True)
        if len(first) == 0:
            return img.new_zeros(())
        x = pixel_features(img.to(torch.promote_types(img.dtype, torch.float32)))
        distance = torch.linalg.vector_norm(x[first] - x[second], dim=1) / self.apart[classes[first]]
        return (1 - distance.mean()).clamp_min(0)


def real_distances(data: TrainingSet, num_classes: int, order: SampleOrder) -> torch.Tensor:
    """Mean distance of two reals of each class, of those that training draws first; float32 [K].

    A class of which fewer than two are among them gets the mean of the others (infinity where there is none: its charge
    has no slope). Images that cannot be read are left out.

    Raises:
        UserError: none can be read.
    """
    index = order.first(min(_OF_A_CLASS * num_classes, _MOST)).to(data.labels.device)
    index, features = data.looked_at(index, pixel_features, "looking at distances")
    classes = data.labels[index, :num_classes].argmax(dim=1)
    apart = torch.stack([torch.pdist(features[classes == k]).mean() for k in range(num_classes)])
    return torch.where(apart > 0, apart, apart[apart > 0].mean()).nan_to_num(nan=math.inf)
