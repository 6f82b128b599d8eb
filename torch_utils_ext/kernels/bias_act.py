"""Bias, activation, gain and clamp in one pass over memory, with first and second derivatives."""

from __future__ import annotations

import torch

from torch_utils_ext.build import KernelsUnavailable


def forward(
    x: torch.Tensor, b: torch.Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> torch.Tensor:
    """clamp(gain * act(x + b)) for a CUDA tensor `x`; `b` is None or [x.shape[dim]]."""
    raise KernelsUnavailable("not written yet")


def grad(
    dy: torch.Tensor,
    x: torch.Tensor | None,
    b: torch.Tensor | None,
    y: torch.Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> torch.Tensor:
    """dy times the derivative of `forward`; `x` and `b` are needed by 'swish' only, `y` by the others."""
    raise KernelsUnavailable("not written yet")


def grad2(
    ddx: torch.Tensor,
    dy: torch.Tensor,
    x: torch.Tensor | None,
    b: torch.Tensor | None,
    y: torch.Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> torch.Tensor:
    """ddx * dy times the second derivative of `forward`."""
    raise KernelsUnavailable("not written yet")
