"""Adaptive discriminator augmentation: the controller of the augmentation probability."""

from __future__ import annotations

import torch

from stylegan2_msp.augment import AugmentPipe


class AdaController:
    """Raises p while D is too sure of the reals, lowers it otherwise (Karras et al. 2020b, section 3.1).

    The heuristic is r_t = E[sign D(real)]; every ``interval`` batches p moves by a fixed step towards r_t = target, a
    step such that p can go from 0 to 1 in ``kimg`` thousand images.
    """

    def __init__(self, pipe: AugmentPipe, target: float, kimg: float, interval: int, batch: int) -> None:
        self.pipe = pipe
        self.target = target
        self.step = batch * interval / (kimg * 1000)
        self.seen = torch.zeros(2, device=pipe.p.device)  # sum of E[sign D(real)] and number of batches

    def observe(self, signs: torch.Tensor) -> None:
        """Takes E[sign D(real)] of one batch (already the mean over processes)."""
        self.seen.add_(torch.stack([signs.float(), torch.ones((), device=signs.device)]))

    def update(self) -> None:
        """Moves p by one step, never below 0 or above 1, without waiting for the device."""
        r_t = self.seen[0] / self.seen[1]  # NaN without observations, which compares as neither
        direction = (r_t > self.target).float() - (r_t < self.target).float()
        self.pipe.p.copy_((self.pipe.p + direction * self.step).clamp(0, 1))
        self.seen.zero_()
