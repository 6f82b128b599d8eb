"""What an item owes to its seed alone: its latent code and its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torch_utils_ext.rng import BatchRng

SETTLED = 3  # numbers of z that `Settled` reads


@dataclass(frozen=True)
class Settled:
    """What the first numbers of latents settle, each as a rank among all latents: uniform in [0, 1], [N].

    Attributes:
        z: the latents [N, z_dim].
    """

    z: torch.Tensor

    @property
    def naming(self) -> torch.Tensor:
        """Below the share a(u) of reals that f names right (`agreement`), f is to name the item as its class."""
        return torch.special.ndtr(self.z[:, 0])

    @property
    def sharpness(self) -> torch.Tensor:
        """How sharp the image is to be among reals of its label (`training.sharpness`)."""
        return torch.special.ndtr(self.z[:, 1])

    @property
    def legibility(self) -> torch.Tensor:
        """How well a second network is to know the class among reals of its label (`training.witness`)."""
        return torch.special.ndtr(self.z[:, 2])


def latents(seeds: Sequence[int], z_dim: int) -> torch.Tensor:
    """z of each seed from a generator of its own, float32 [N, z_dim]: the family's RandomState(seed)."""
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return torch.from_numpy(np.stack(rows)).to(torch.float32)


def redrawn(seeds: Sequence[int], draw: int) -> list[int]:
    """The seed of what is drawn in place of each seed's own; draw 0 is the seed itself."""
    if draw == 0:
        return list(seeds)
    return [int(np.random.SeedSequence((seed, draw)).generate_state(1)[0]) for seed in seeds]


def redrawn_latents(z: torch.Tensor, seeds: Sequence[int], draw: int) -> torch.Tensor:
    """Other latents in place of z [N, z_dim] that settle the same; draw 0 is z itself.

    Args:
        z: whose first `SETTLED` numbers are kept.
        seeds: of each row.
        draw: number of the draw.
    """
    if draw == 0:
        return z
    return torch.cat([z[:, :SETTLED], latents(redrawn(seeds, draw), z.shape[1]).to(z)[:, SETTLED:]], dim=1)


class SeedRng(BatchRng):
    """Randomness for noise_mode 'random' in which every item has a generator of its own, seeded by its seed."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__(0, device)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def randn(self, n: int, *shape: int) -> torch.Tensor:
        """Standard normal numbers, float32 [n, *shape], row i from seed i."""
        if n != len(self.generators):
            raise ValueError(f"{n} rows asked of {len(self.generators)} seeds")
        rows = [torch.randn(shape, generator=g, dtype=torch.float32) for g in self.generators]
        return torch.stack(rows).to(self.device)
