"""The pipe that runs all families of transforms in order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from stylegan2_msp.augment.affine import compose
from stylegan2_msp.augment.blit import Blit
from stylegan2_msp.augment.color import Color
from stylegan2_msp.augment.cutout import Cutout
from stylegan2_msp.augment.draws import Draws
from stylegan2_msp.augment.geometry import Geometry
from stylegan2_msp.augment.imgfilter import NUM_BANDS, ImageFilter
from stylegan2_msp.augment.noise import Noise
from stylegan2_msp.augment.warp import warp
from torch_utils_ext.rng import BatchRng


class AugmentPipe(torch.nn.Module):
    """Adaptive discriminator augmentation (Karras et al. 2020, 'Training GANs with limited data', appendix B).

    Every transform has a probability multiplier (0: off), and is applied to each image with probability
    ``multiplier * p``, independently of the others. `p` is a buffer (float32 scalar, 1 at first) that training adapts.
    The other arguments are those of the families: `Blit`, `Geometry`, `Color`, `ImageFilter`, `Noise`, `Cutout`.

    Raises:
        ValueError: a multiplier or strength is negative or not finite, or there are not four filter bands.
    """

    p: torch.Tensor

    def __init__(
        self,
        xflip: float = 0,
        rotate90: float = 0,
        xint: float = 0,
        xint_max: float = 0.125,
        scale: float = 0,
        rotate: float = 0,
        aniso: float = 0,
        xfrac: float = 0,
        scale_std: float = 0.2,
        rotate_max: float = 1,
        aniso_std: float = 0.2,
        xfrac_std: float = 0.125,
        brightness: float = 0,
        contrast: float = 0,
        lumaflip: float = 0,
        hue: float = 0,
        saturation: float = 0,
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,
        hue_max: float = 1,
        saturation_std: float = 1,
        imgfilter: float = 0,
        imgfilter_bands: Sequence[float] = (1, 1, 1, 1),
        imgfilter_std: float = 1,
        noise: float = 0,
        cutout: float = 0,
        noise_std: float = 0.1,
        cutout_size: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value in {k: v for k, v in locals().items() if k not in ("self", "__class__")}.items():
            _check_argument(name, value)
        self.register_buffer("p", torch.ones([]))
        self.blit = Blit(xflip, rotate90, xint, xint_max)
        self.geometry = Geometry(scale, rotate, aniso, xfrac, scale_std, rotate_max, aniso_std, xfrac_std)
        self.color = Color(
            *(brightness, contrast, lumaflip, hue, saturation),
            *(brightness_std, contrast_std, hue_max, saturation_std),
        )
        self.filter = ImageFilter(imgfilter, tuple(imgfilter_bands), imgfilter_std)
        self.noise = Noise(noise, noise_std)
        self.cutout = Cutout(cutout, cutout_size)

    @property
    def idle(self) -> bool:
        """Whether p is 0 on a CPU; elsewhere, looking at p would mean waiting for the device."""
        return self.p.device.type == "cpu" and not self.p.numpy().any()

    def forward(
        self, images: torch.Tensor, debug_percentile: float | None = None, rng: BatchRng | None = None
    ) -> torch.Tensor:
        """Augments each image on its own.

        Args:
            images: float [N, C, H, W] in [-1, 1], C being 1 or 3, H and W at least 2.
            debug_percentile: in (0, 1): applies every transform that is on, with each parameter at that percentile of
                its distribution.
            rng: source of the random numbers, shared by the processes of a batch; None: torch's global generator.

        Returns:
            Images like the given ones, possibly outside [-1, 1]; differentiable any number of times.

        Raises:
            ValueError: images of another rank, channel count or size, or a percentile outside (0, 1).
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < 2:
            raise ValueError(f"images must be [N, 1 or 3, H, W] of 2 pixels or more, got {tuple(images.shape)}")
        if debug_percentile is None and self.idle:
            return images
        draws = Draws(images.shape[0], self.p, images.device, rng, debug_percentile)
        height, width = images.shape[2:]
        moves = [*self.blit.inverse(draws, width, height), *self.geometry.inverse(draws, width, height)]
        if moves:
            images = warp(images, compose(moves))
        for family in (self.color, self.filter, self.noise, self.cutout):
            if family.active:
                images = family.apply(images, draws)
        return images


def _check_argument(name: str, value: float | Sequence[float]) -> None:
    values = value if isinstance(value, Sequence) else (value,)
    if isinstance(value, Sequence) and len(values) != NUM_BANDS:
        raise ValueError(f"{name} must have {NUM_BANDS} values, got {len(values)}")
    if not all(math.isfinite(v) and v >= 0 for v in values):
        raise ValueError(f"{name} must be zero or positive, got {value}")
