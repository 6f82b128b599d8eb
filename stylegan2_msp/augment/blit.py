"""Pixel blitting: mirror images, quarter turns and whole-pixel shifts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from stylegan2_msp.augment.affine import rotate2d, scale2d, translate2d
from stylegan2_msp.augment.draws import Draws


@dataclass(frozen=True)
class Blit:
    """Transforms that move whole pixels (Karras et al. 2020, 'Training GANs with limited data', appendix B).

    Args:
        xflip: probability multiplier of mirroring left and right (half of the chosen samples are).
        rotate90: multiplier of turning by 0, 90, 180 or 270 degrees.
        xint: multiplier of shifting by whole pixels.
        xint_max: largest shift along each axis, relative to the image's size.
    """

    xflip: float = 0
    rotate90: float = 0
    xint: float = 0
    xint_max: float = 0.125

    @property
    def active(self) -> bool:
        return self.xflip > 0 or self.rotate90 > 0 or self.xint > 0

    def inverse(self, draws: Draws, width: int, height: int) -> list[torch.Tensor]:
        """Factors [n, 3, 3], to be multiplied from left to right, of the map from results back to images (pixels)."""
        factors = []
        if self.xflip > 0:
            mirrored = draws.choose(self.xflip * draws.p, draws.integer(2), 0)
            factors.append(scale2d(1 - 2 * mirrored, torch.ones_like(mirrored)))
        if self.rotate90 > 0:
            turns = draws.choose(self.rotate90 * draws.p, draws.integer(4), 0)
            factors.append(rotate2d(turns * (math.pi / 2)))
        if self.xint > 0:
            shift = draws.choose(self.xint * draws.p, draws.symmetric(2) * self.xint_max, 0)
            factors.append(translate2d(-(shift[:, 0] * width).round(), -(shift[:, 1] * height).round()))
        return factors
