"""What is asked of a generator so that its answers can be judged: labels and latents of three distributions.

natural: labels of random real items. uniform: every class at every level, the same latents at all levels (unless
latents are drawn until the answer is near enough). matched: as many labels of real items from the bin around every
level, so that a bin's fakes are asked for what its reals are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stylegan2_msp.conditioning import level, make_labels
from stylegan2_msp.uncertainty import Measure, Msp

Array = npt.NDArray[Any]
LOWEST_LEVEL = 0.3
NUM_LEVELS = 8


@dataclass(frozen=True)
class Asked:
    """What is asked of a generator.

    Attributes:
        labels: float32 [N, c_dim].
        z: latents float32 [N, z_dim].
        seed: of the first latent's noise, and of latents drawn in its place; the next latent has the next one.
        group: so many neighbours share a latent.
    """

    labels: torch.Tensor
    z: torch.Tensor
    seed: int
    group: int = 1

    def __len__(self) -> int:
        return len(self.labels)


def uniform_levels(num_classes: int, count: int = NUM_LEVELS, measure: Measure | None = None) -> list[float]:
    """Evenly spaced levels of MSP from max(0.3, 1 / K) to 1; of another measure the certain 0.7 of its range."""
    measure = measure or Msp()
    low, high = measure.low(num_classes), measure.high(num_classes)
    if measure.certain == "high":
        return [float(u) for u in np.linspace(max(LOWEST_LEVEL, low), high, count)]
    return [float(u) for u in np.linspace(low, high - LOWEST_LEVEL, count)]


def half_step(levels: Sequence[float]) -> float:
    """Half the distance of two levels: how far a level's bin reaches, and what counts as near enough."""
    return (levels[-1] - levels[0]) / (len(levels) - 1) / 2


def bins_of(u: npt.ArrayLike, levels: Sequence[float]) -> Array:
    """Index of the level within `half_step` of each u, int64 [N]; -1 where there is none, as of NaN."""
    step = 2 * half_step(levels)
    nearest = np.floor((np.asarray(u, np.float64) - levels[0]) / step + 0.5)
    return np.where((nearest >= 0) & (nearest < len(levels)), nearest, -1.0).astype(np.int64)


def ask_natural(labels: torch.Tensor, n: int, z_dim: int, generator: torch.Generator) -> Asked:
    """n labels of the real labels [M, c_dim], drawn at random with replacement."""
    rows = torch.randint(len(labels), (n,), generator=generator)
    return Asked(labels.cpu()[rows], torch.randn(n, z_dim, generator=generator, dtype=torch.float32), _seed(generator))


def ask_uniform(
    num_classes: int,
    levels: Sequence[float],
    n: int,
    z_dim: int,
    generator: torch.Generator,
    measure: Measure | None = None,
    shared: bool = True,
) -> Asked:
    """About n labels: classes in turn, each at all levels in rising order, with one latent if it is ``shared``."""
    latents = max(n // len(levels), 1)
    classes = (torch.arange(latents) % num_classes).repeat_interleave(len(levels))
    u = torch.tensor(list(levels), dtype=torch.float32).repeat(latents)
    labels = make_labels(classes, (measure or Msp()).rows(classes, u), num_classes)
    if not shared:
        z = torch.randn(len(labels), z_dim, generator=generator, dtype=torch.float32)
        return Asked(labels, z, _seed(generator))
    z = torch.randn(latents, z_dim, generator=generator, dtype=torch.float32).repeat_interleave(len(levels), dim=0)
    return Asked(labels, z, _seed(generator), len(levels))


def ask_matched(
    labels: torch.Tensor, num_classes: int, levels: Sequence[float], n: int, z_dim: int, generator: torch.Generator
) -> Asked:
    """n / L labels of the real items in the bin of each of L levels, with replacement; empty bins are left out."""
    labels = labels.cpu()
    bins = torch.from_numpy(bins_of(level(labels, num_classes).numpy(), levels))
    rows = []
    for b in range(len(levels)):
        members = (bins == b).nonzero().flatten()
        if len(members):
            rows.append(members[torch.randint(len(members), (max(n // len(levels), 1),), generator=generator)])
    chosen = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
    z = torch.randn(len(chosen), z_dim, generator=generator, dtype=torch.float32)
    return Asked(labels[chosen], z, _seed(generator))


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))
