"""Cutout: a rectangle of zeros."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stylegan2_msp.augment.draws import Draws


@dataclass(frozen=True)
class Cutout:
    """Blanks a rectangle (Karras et al. 2020, 'Training GANs with limited data', appendix B).

    Args:
        cutout: probability multiplier.
        cutout_size: sides of the rectangle relative to the image's; its centre lies anywhere in the image.
    """

    cutout: float = 0
    cutout_size: float = 0.5

    @property
    def active(self) -> bool:
        return self.cutout > 0

    def apply(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Sets the rectangle to zero (mid-grey) in images [N, C, H, W]."""
        height, width = images.shape[2:]
        sides = draws.choose(self.cutout * draws.p, torch.full([draws.n], self.cutout_size, device=draws.device), 0)
        centre = draws.uniform(2)
        x = (torch.arange(width, device=draws.device) + 0.5) / width
        y = (torch.arange(height, device=draws.device) + 0.5) / height
        half = sides[:, None] / 2
        outside_x = (x - centre[:, :1]).abs() >= half
        outside_y = (y - centre[:, 1:]).abs() >= half
        keep = outside_x[:, None, None, :] | outside_y[:, None, :, None]
        return images * keep.to(images.dtype)
