"""The random numbers of one pass through the augmentation pipe, or their percentiles."""

from __future__ import annotations

import torch

from torch_utils_ext.rng import BatchRng


class Draws:
    """Random numbers for each of `n` samples, and which samples a transform is applied to.

    Args:
        n: number of samples (of this process, where several share a batch).
        p: overall augmentation probability, a scalar tensor.
        device: where the numbers are needed.
        rng: source shared by all processes of a batch; None: torch's global generator.
        percentile: in (0, 1): every parameter is that percentile of its distribution and every transform is applied,
            whatever `p`; for tests and figures.
    """

    def __init__(
        self,
        n: int,
        p: torch.Tensor,
        device: torch.device,
        rng: BatchRng | None = None,
        percentile: float | None = None,
    ) -> None:
        if percentile is not None and not 0 < percentile < 1:
            raise ValueError(f"debug_percentile must lie between 0 and 1, got {percentile}")
        self.n = n
        self.p = p
        self.device = device
        self.rng = rng
        self.percentile = percentile

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), [n, *shape]."""
        if self.percentile is not None:
            return torch.full([self.n, *shape], self.percentile, device=self.device)
        return self._uniform(*shape)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers, [n, *shape]; see `_erfinv_percentile` for the percentile."""
        if self.percentile is not None:
            return torch.full([self.n, *shape], self._erfinv_percentile(), device=self.device)
        return self.white_noise(*shape)

    def white_noise(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers, [n, *shape], random even where a percentile is asked for."""
        if self.rng is None:
            return torch.randn([self.n, *shape], device=self.device)
        return self.rng.randn(self.n, *shape).to(self.device)

    def symmetric(self, *shape: int) -> torch.Tensor:
        """Uniform numbers in [-1, 1), [n, *shape]."""
        return self.uniform(*shape) * 2 - 1

    def integer(self, count: int) -> torch.Tensor:
        """Uniform whole numbers in 0 .. count - 1, as floats [n]."""
        return (self.uniform() * count).floor()

    def choose(self, probability: float | torch.Tensor, value: torch.Tensor, neutral: float) -> torch.Tensor:
        """`value` [n, ...] for samples chosen with `probability` (already times p), `neutral` for the others."""
        if self.percentile is not None:
            return value
        chosen = self._uniform() < probability
        return torch.where(chosen.reshape(-1, *[1] * (value.ndim - 1)), value, neutral)

    def _uniform(self, *shape: int) -> torch.Tensor:
        if self.rng is None:
            return torch.rand([self.n, *shape], device=self.device)
        return self.rng.rand(self.n, *shape).to(self.device)

    def _erfinv_percentile(self) -> float:
        """erfinv(2 q - 1): the family's convention, 1 / sqrt(2) of the normal distribution's q-th percentile."""
        assert self.percentile is not None
        return float(torch.erfinv(torch.tensor(self.percentile * 2 - 1, dtype=torch.float64)))
