"""The activation functions of the StyleGAN2 family with their first and second derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

# Klambauer et al. 2017, "Self-Normalizing Neural Networks", equation 14.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@dataclass(frozen=True)
class Activation:
    """A pointwise function and what goes with it when the caller says nothing else.

    Attributes:
        func: maps (x, alpha) to the activated tensor.
        slope: maps x to the first derivative of a smooth function; None for one made of straight lines through zero.
        curve: maps x to the second derivative of a smooth function.
        def_alpha: shape parameter; only the leaky ReLU has one.
        def_gain: factor on the result that keeps the variance of random inputs about the same.
    """

    func: Callable[[torch.Tensor, float], torch.Tensor]
    slope: Callable[[torch.Tensor], torch.Tensor] | None = None
    curve: Callable[[torch.Tensor], torch.Tensor] | None = None
    def_alpha: float = 0.0
    def_gain: float = 1.0

    @property
    def scales(self) -> bool:
        """Whether func(g x) = g func(x) for every g > 0."""
        return self.slope is None


def _exp_below(x: torch.Tensor, scale: float, above: float) -> torch.Tensor:
    """scale * exp(x) up to zero, `above` beyond."""
    return torch.where(x > 0, above, scale * x.clamp(max=0).exp())


def _exp_curve(x: torch.Tensor, scale: float) -> torch.Tensor:
    """scale * exp(x) below zero, 0 from there on, as PyTorch has it."""
    return torch.where(x >= 0, 0.0, scale * x.clamp(max=0).exp())


def _sigmoid_slope(x: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s)


def _swish_slope(x: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _swish_curve(x: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


activation_funcs: dict[str, Activation] = {
    "linear": Activation(lambda x, alpha: x),
    "relu": Activation(lambda x, alpha: torch.relu(x), def_gain=math.sqrt(2)),
    "lrelu": Activation(F.leaky_relu, def_alpha=0.2, def_gain=math.sqrt(2)),
    "tanh": Activation(
        lambda x, alpha: torch.tanh(x),
        slope=lambda x: 1 - torch.tanh(x).square(),
        curve=lambda x: -2 * torch.tanh(x) * (1 - torch.tanh(x).square()),
    ),
    "sigmoid": Activation(
        lambda x, alpha: torch.sigmoid(x),
        slope=_sigmoid_slope,
        curve=lambda x: _sigmoid_slope(x) * (1 - 2 * torch.sigmoid(x)),
    ),
    "elu": Activation(
        lambda x, alpha: F.elu(x),
        slope=lambda x: _exp_below(x, 1.0, 1.0),
        curve=lambda x: _exp_curve(x, 1.0),
    ),
    "selu": Activation(
        lambda x, alpha: F.selu(x),
        slope=lambda x: _exp_below(x, _SELU_SCALE * _SELU_ALPHA, _SELU_SCALE),
        curve=lambda x: _exp_curve(x, _SELU_SCALE * _SELU_ALPHA),
    ),
    "softplus": Activation(lambda x, alpha: F.softplus(x), slope=torch.sigmoid, curve=_sigmoid_slope),
    "swish": Activation(
        lambda x, alpha: torch.sigmoid(x) * x, slope=_swish_slope, curve=_swish_curve, def_gain=math.sqrt(2)
    ),
}
