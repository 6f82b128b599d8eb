"""How sharp an image is for its class and level: D is told, so that not all doubt becomes blur."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.training.neighbours import Neighbours, some_reals

_MOST = 32_768  # reals that are looked at
_ROUNDING = 5e-6  # mean square of what rounding to bytes adds to an image in [-1, 1]: (2 / 255)^2 / 12
_FAINT = 1e-3  # variance below which an image counts as flat, and so as blurred


def sharpness(img: torch.Tensor) -> torch.Tensor:
    """Log of the share of an image's variance that a blur with [1, 2, 1] takes away.

    Args:
        img: [N, C, H, W] in [-1, 1].

    Returns:
        [N], from about -12 to 0 (white noise); images without contrast have about -5.
    """
    blurred = pad(img, (1, 1, 1, 1), mode="reflect")
    for axis, size in ((2, img.shape[2]), (3, img.shape[3])):
        before, here, after = (blurred.narrow(axis, start, size) for start in range(3))
        blurred = (before + 2 * here + after) / 4
    lost = (img - blurred).square().flatten(1).mean(dim=1)
    variance = img.flatten(1).var(dim=1, correction=0)
    return (lost + _ROUNDING).log() - (variance + _FAINT).log()


class SharpnessRanks:
    """Ranks an image's sharpness among the 64 reals of its class that are nearest to it in level.

    Among reals of any class and level the rank is uniform in [0, 1], so that a number of G's latent can say how sharp a
    fake is to be, and fakes and reals be told alike.

    Args:
        values: sharpness of reals, float32 [N].
        labels: their labels, [N, K + 1] or [N, 2 K].
        num_classes: K.
    """

    def __init__(self, values: torch.Tensor, labels: torch.Tensor, num_classes: int) -> None:
        self.values = values
        self.neighbours = Neighbours(labels, num_classes)

    def __call__(self, img: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Share of the neighbours that are less sharp, ties counted half: [n] in [0, 1].

        Args:
            img: [n, C, H, W] in [-1, 1].
            c: their labels [n, c_dim].
        """
        value, near = sharpness(img)[:, None], self.values[self.neighbours.of(c)]
        return ((near < value).float() + 0.5 * (near == value).float()).mean(dim=1)


def rank_reals(data: TrainingSet, num_classes: int) -> SharpnessRanks:
    """Looks at the images of the data; of more than 32,768 at so many. Images that cannot be read are left out.

    Raises:
        UserError: none can be read.
    """
    chosen = some_reals(data, num_classes, _MOST)
    rows, values = data.looked_at(chosen, sharpness, "looking at sharpness")
    return SharpnessRanks(values, data.labels[rows], num_classes)
