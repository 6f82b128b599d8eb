"""General geometric transforms: scaling, rotation, stretching and fractional shifts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from stylegan2_msp.augment.affine import rotate2d, scale2d, translate2d
from stylegan2_msp.augment.draws import Draws


@dataclass(frozen=True)
class Geometry:
    """Transforms that need resampling (Karras et al. 2020, 'Training GANs with limited data', appendix B).

    Args:
        scale: probability multiplier of scaling both axes alike.
        rotate: multiplier of rotating; split over a rotation before and one after the stretching.
        aniso: multiplier of stretching one axis while shrinking the other.
        xfrac: multiplier of shifting by fractions of pixels.
        scale_std: standard deviation of the base-2 logarithm of the scale.
        rotate_max: largest angle, as a fraction of half a turn.
        aniso_std: standard deviation of the base-2 logarithm of the stretch.
        xfrac_std: standard deviation of the shift, relative to the image's size.
    """

    scale: float = 0
    rotate: float = 0
    aniso: float = 0
    xfrac: float = 0
    scale_std: float = 0.2
    rotate_max: float = 1
    aniso_std: float = 0.2
    xfrac_std: float = 0.125

    @property
    def active(self) -> bool:
        return self.scale > 0 or self.rotate > 0 or self.aniso > 0 or self.xfrac > 0

    def inverse(self, draws: Draws, width: int, height: int) -> list[torch.Tensor]:
        """Factors [n, 3, 3], to be multiplied from left to right, of the map from results back to images (pixels)."""
        factors = []
        if self.scale > 0:
            s = draws.choose(self.scale * draws.p, torch.exp2(draws.normal() * self.scale_std), 1)
            factors.append(scale2d(1 / s, 1 / s))
        if self.rotate > 0:
            factors.append(self._rotation(draws))
        if self.aniso > 0:
            s = draws.choose(self.aniso * draws.p, torch.exp2(draws.normal() * self.aniso_std), 1)
            factors.append(scale2d(1 / s, s))
        if self.rotate > 0 and draws.percentile is None:  # one rotation is enough to look at
            factors.append(self._rotation(draws))
        if self.xfrac > 0:
            shift = draws.choose(self.xfrac * draws.p, draws.normal(2) * self.xfrac_std, 0)
            factors.append(translate2d(-shift[:, 0] * width, -shift[:, 1] * height))
        return factors

    def _rotation(self, draws: Draws) -> torch.Tensor:
        """One of two rotations, each so probable that at least one happens with probability ``rotate p``."""
        probability = 1 - (1 - self.rotate * draws.p).clamp(0, 1).sqrt()
        angle = draws.choose(probability, draws.symmetric() * (math.pi * self.rotate_max), 0)
        return rotate2d(angle)
