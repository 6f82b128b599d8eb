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


@torch.no_grad()
def update_ema(G_ema: torch.nn.Module, G: torch.nn.Module, beta: float) -> None:
    """G_ema = beta G_ema + (1 - beta) G for parameters; buffers are copied."""
    averaged, current = ([p.detach() for p in network.parameters()] for network in (G_ema, G))
    torch._foreach_lerp_(averaged, current, 1 - beta)
    for average, value in zip(G_ema.buffers(), G.buffers(), strict=True):
        average.copy_(value)
