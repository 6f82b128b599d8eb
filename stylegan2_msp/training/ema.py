"""The averaged generator that is kept in the end."""

from __future__ import annotations

import torch


def ema_beta(nimg: int, batch: int, ema_kimg: float, rampup: float | None) -> float:
    """Decay of one step so that the half-life is ``ema_kimg`` thousand images, shorter at the start of training.

    Args:
        nimg: images seen before this step.
        batch: images of this step.
        ema_kimg: half-life in thousands of images.
        rampup: the half-life never exceeds this share of ``nimg``; None for no ramp.
    """
    half_life = ema_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, nimg * rampup)
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


class Average:
    """Keeps G_ema, an average over time of G's parameters; buffers are G's own.

    Args:
        averaged: G_ema.
        current: G, of the same structure.
    """

    def __init__(self, averaged: torch.nn.Module, current: torch.nn.Module) -> None:
        networks = (averaged, current)
        self.averaged, self.current = ([p.detach() for p in network.parameters()] for network in networks)
        self.copied, self.original = (list(network.buffers()) for network in networks)

    @torch.no_grad()
    def update(self, beta: float) -> None:
        """G_ema = beta G_ema + (1 - beta) G."""
        torch._foreach_lerp_(self.averaged, self.current, 1 - beta)
        if self.copied:
            torch._foreach_copy_(self.copied, self.original)
