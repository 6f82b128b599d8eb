"""Additive white noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stylegan2_msp.augment.draws import Draws


@dataclass(frozen=True)
class Noise:
    """Noise of random strength (Karras et al. 2020, 'Training GANs with limited data', appendix B).

    Args:
        noise: probability multiplier.
        noise_std: scale of the noise's standard deviation, which is half-normal.
    """

    noise: float = 0
    noise_std: float = 0.1

    @property
    def active(self) -> bool:
        return self.noise > 0

    def apply(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Adds noise to images [N, C, H, W]; a percentile fixes the strength, not the noise."""
        strength = draws.choose(self.noise * draws.p, draws.normal().abs() * self.noise_std, 0)
        noise = draws.white_noise(*images.shape[1:]) * strength[:, None, None, None]
        return images + noise.to(images.dtype)
