"""Colour transforms: brightness, contrast, luma inversion, hue and saturation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from stylegan2_msp.augment.affine import colour_matrix, compose, rotate3d
from stylegan2_msp.augment.draws import Draws


@dataclass(frozen=True)
class Color:
    """Affine maps of (r, g, b) (Karras et al. 2020, 'Training GANs with limited data', appendix B).

    Args:
        brightness: probability multiplier of adding a constant.
        contrast: multiplier of scaling around zero (mid-grey).
        lumaflip: multiplier of inverting luma and keeping chroma (half of the chosen samples are).
        hue: multiplier of turning about the grey axis; images of one channel have no hue.
        saturation: multiplier of scaling the distance from the grey axis; likewise.
        brightness_std: standard deviation of the constant (images lie in [-1, 1]).
        contrast_std: standard deviation of the base-2 logarithm of the contrast.
        hue_max: largest angle, as a fraction of half a turn.
        saturation_std: standard deviation of the base-2 logarithm of the saturation.
    """

    brightness: float = 0
    contrast: float = 0
    lumaflip: float = 0
    hue: float = 0
    saturation: float = 0
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1
    saturation_std: float = 1

    @property
    def active(self) -> bool:
        return max(self.brightness, self.contrast, self.lumaflip, self.hue, self.saturation) > 0

    def apply(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Transforms images [N, C, H, W], C being 1 or 3."""
        n, channels, height, width = images.shape
        factors = self._factors(draws, chroma=channels == 3)
        if not factors:
            return images
        matrix = compose(factors[::-1])
        linear, offset = matrix[:, :3, :3], matrix[:, :3, 3:]
        if channels == 1:  # as grey (v, v, v), averaged back to one channel
            linear, offset = linear.sum(dim=2, keepdim=True).mean(dim=1, keepdim=True), offset.mean(dim=1, keepdim=True)
        pixels = images.reshape(n, channels, height * width)
        return torch.baddbmm(offset.to(images.dtype), linear.to(images.dtype), pixels).reshape(images.shape)

    def _factors(self, draws: Draws, chroma: bool) -> list[torch.Tensor]:
        """Matrices [n, 4, 4] in the order in which they are applied."""
        eye = torch.eye(3, device=draws.device).expand(draws.n, 3, 3)
        luma = torch.full([3], 1 / math.sqrt(3), device=draws.device)
        grey = torch.outer(luma, luma)
        factors = []
        if self.brightness > 0:
            b = draws.choose(self.brightness * draws.p, draws.normal() * self.brightness_std, 0)
            factors.append(colour_matrix(eye, b[:, None].expand(-1, 3)))
        if self.contrast > 0:
            c = draws.choose(self.contrast * draws.p, torch.exp2(draws.normal() * self.contrast_std), 1)
            factors.append(colour_matrix(eye * c[:, None, None]))
        if self.lumaflip > 0:
            flipped = draws.choose(self.lumaflip * draws.p, draws.integer(2), 0)
            factors.append(colour_matrix(eye - 2 * grey * flipped[:, None, None]))
        if self.hue > 0 and chroma:
            angle = draws.choose(self.hue * draws.p, draws.symmetric() * (math.pi * self.hue_max), 0)
            factors.append(colour_matrix(rotate3d(luma, angle)))
        if self.saturation > 0 and chroma:
            s = draws.choose(self.saturation * draws.p, torch.exp2(draws.normal() * self.saturation_std), 1)
            factors.append(colour_matrix(grey + (eye - grey) * s[:, None, None]))
        return factors
