"""What an item owes to its seed alone: its latent code and its noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from torch_utils_ext.rng import BatchRng


def latents(seeds: Sequence[int], z_dim: int) -> torch.Tensor:
    """z of each seed from a generator of its own, float32 [N, z_dim]: the family's RandomState(seed)."""
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return torch.from_numpy(np.stack(rows)).to(torch.float32)


def redrawn(seeds: Sequence[int], draw: int) -> list[int]:
    """The seed of the latent (and noise) that is drawn in place of each seed's own; draw 0 is the seed itself."""
    if draw == 0:
        return list(seeds)
    return [int(np.random.SeedSequence((seed, draw)).generate_state(1)[0]) for seed in seeds]


def chances(seeds: Sequence[int]) -> torch.Tensor:
    """One number in [0, 1) of each seed, independent of its latent and noise, float32 [N]."""
    return torch.tensor([np.random.SeedSequence((seed, 0, 0)).generate_state(1)[0] / 2**32 for seed in seeds]).float()


class SeedRng(BatchRng):
    """Randomness for noise_mode 'random' in which every item has a generator of its own, seeded by its seed."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__(0, device)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def randn(self, n: int, *shape: int) -> torch.Tensor:
        """Standard normal numbers [n, *shape], row i from seed i."""
        if n != len(self.generators):
            raise ValueError(f"{n} rows asked of {len(self.generators)} seeds")
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)
