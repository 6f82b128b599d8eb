"""Image-space filtering: random gains for four frequency bands."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch

from stylegan2_msp.augment.draws import Draws
from stylegan2_msp.augment.reflect import reflected_filters
from stylegan2_msp.augment.wavelets import SYM2

NUM_BANDS = 4
# Expected power of each band in natural images, low to high: a spectrum of 1/f.
_BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


@dataclass(frozen=True)
class ImageFilter:
    """Amplifies and damps frequency bands (Karras et al. 2020, 'Training GANs with limited data', appendix B).

    Args:
        imgfilter: probability multiplier of the family.
        imgfilter_bands: further multiplier of each band, from low to high frequencies.
        imgfilter_std: standard deviation of the base-2 logarithm of the gain.
    """

    imgfilter: float = 0
    imgfilter_bands: tuple[float, ...] = (1,) * NUM_BANDS
    imgfilter_std: float = 1

    @property
    def active(self) -> bool:
        return self.imgfilter > 0 and max(self.imgfilter_bands) > 0

    def apply(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Filters images [N, C, H, W] along both axes; the borders are reflected."""
        gains = self._gains(draws).to(images.dtype)
        height, width = images.shape[2:]
        rows = torch.einsum("nb,bij->nij", gains, _band_matrices(height, images.device, images.dtype))
        columns = (
            rows
            if width == height
            else torch.einsum("nb,bij->nij", gains, _band_matrices(width, images.device, images.dtype))
        )
        return rows[:, None] @ (images @ columns.mT[:, None])

    def _gains(self, draws: Draws) -> torch.Tensor:
        """Amplitude of each band [n, 4]: one band after the other is amplified, the expected power stays one."""
        power = _band_power(draws.device)
        gains = torch.ones([draws.n, NUM_BANDS], device=draws.device)
        for band, strength in enumerate(self.imgfilter_bands):
            if strength > 0:
                factor = torch.ones_like(gains)
                chance = self.imgfilter * strength * draws.p
                factor[:, band] = draws.choose(chance, torch.exp2(draws.normal() * self.imgfilter_std), 1)
                gains = gains * factor / (power * factor.square()).sum(dim=1, keepdim=True).sqrt()
        return gains


def band_filters() -> np.ndarray:
    """Zero-phase filters [4, taps], float64, of the bands [0, pi/8], [pi/8, pi/4], [pi/4, pi/2], [pi/2, pi].

    They sum to the unit impulse. Each round squeezes the bands found so far into the lower half of the spectrum and
    adds the upper half as a new one; the halves are split by the autocorrelation of the sym2 wavelet filters.
    """
    taps = np.array(SYM2)
    signs = (-1.0) ** np.arange(taps.size)
    low = np.convolve(taps, taps[::-1]) / 2
    high = np.convolve(taps * signs, (taps * signs)[::-1]) / 2
    bank = np.zeros([NUM_BANDS, 1])
    bank[0] = 1
    for band in range(1, NUM_BANDS):
        spread = np.zeros([NUM_BANDS, bank.shape[1] * 2 - 1])
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low) for row in spread])
        middle = (bank.shape[1] - high.size) // 2
        bank[band, middle : middle + high.size] += high
    return bank


@functools.lru_cache(maxsize=8)
def _band_power(device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return torch.tensor(_BAND_POWER, device=device)


@functools.lru_cache(maxsize=8)
def _band_matrices(size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """`band_filters` for reflected lines of `size` pixels, [4, size, size]."""
    with torch.inference_mode(False), torch.no_grad():
        return reflected_filters(torch.from_numpy(band_filters()), size).to(device=device, dtype=dtype)
