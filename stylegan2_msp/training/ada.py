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
        self.signs: list[torch.Tensor] = []
        self.r_t = 0.0

    def observe(self, signs: torch.Tensor) -> None:
        """Takes E[sign D(real)] of one batch (already the mean over processes)."""
        self.signs.append(signs)

    def update(self) -> None:
        """Moves p by one step, never below 0 or above 1."""
        if not self.signs:
            return
        self.r_t = float(torch.stack(self.signs).mean())
        self.signs.clear()
        direction = (self.r_t > self.target) - (self.r_t < self.target)
        self.pipe.p.copy_((self.pipe.p + direction * self.step).clamp(0, 1))
