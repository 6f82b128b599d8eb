"""Bias, activation, gain and clamp of a layer's output in one differentiable operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Activation:
    """A pointwise function and what goes with it when the caller says nothing else.

    Attributes:
        func: maps (x, alpha) to the activated tensor.
        def_alpha: shape parameter; only the leaky ReLU has one.
        def_gain: factor on the result that keeps the variance of random inputs about the same.
        scales: func(g x) = g func(x) for every g > 0.
    """

    func: Callable[[torch.Tensor, float], torch.Tensor]
    def_alpha: float = 0.0
    def_gain: float = 1.0
    scales: bool = False


activation_funcs: dict[str, Activation] = {
    "linear": Activation(lambda x, alpha: x, scales=True),
    "relu": Activation(lambda x, alpha: torch.relu(x), def_gain=math.sqrt(2), scales=True),
    "lrelu": Activation(F.leaky_relu, def_alpha=0.2, def_gain=math.sqrt(2), scales=True),
    "tanh": Activation(lambda x, alpha: torch.tanh(x)),
    "sigmoid": Activation(lambda x, alpha: torch.sigmoid(x)),
    "elu": Activation(lambda x, alpha: F.elu(x)),
    "selu": Activation(lambda x, alpha: F.selu(x)),
    "softplus": Activation(lambda x, alpha: F.softplus(x)),
    "swish": Activation(lambda x, alpha: torch.sigmoid(x) * x, def_gain=math.sqrt(2)),
}


def bias_act(
    x: torch.Tensor,
    b: torch.Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
    inplace: bool = False,
) -> torch.Tensor:
    """clamp(gain * act(x + b)), differentiable any number of times.

    Args:
        x: activations of any shape and floating dtype; memory format and dtype are kept.
        b: bias [x.shape[dim]], or None.
        dim: the axis of `x` that `b` runs along.
        act: a name in `activation_funcs`.
        alpha: slope of 'lrelu' below zero; None takes the activation's own.
        gain: factor on the activated value; None takes the activation's own.
        clamp: bound c >= 0 of the result, which is held in [-c, c]; None for no bound.
        impl: 'auto' is the quick one, 'ref' the formula as it stands.
        inplace: `x` may be overwritten. Only for a tensor that no other gradient needs, such as a convolution's result.

    Raises:
        ValueError: unknown `act` or `impl`, a bias of the wrong shape, or a negative clamp.
    """
    spec = activation_funcs.get(act)
    if spec is None:
        raise ValueError(f"act must be one of {', '.join(activation_funcs)}, got {act!r}")
    if impl not in ("auto", "ref"):
        raise ValueError(f"impl must be 'auto' or 'ref', got {impl!r}")
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp must not be negative, got {clamp}")
    alpha = spec.def_alpha if alpha is None else float(alpha)
    gain = spec.def_gain if gain is None else float(gain)
    bias = None if b is None else _along(b, x, dim)
    if impl == "auto" and spec.scales and gain > 0 and alpha >= 0:
        y = _scaled(x, bias, act, alpha, gain, inplace)
    else:
        y = spec.func(x if bias is None else x + bias, alpha)
        y = y if gain == 1 else y * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def _along(b: torch.Tensor, x: torch.Tensor, dim: int) -> torch.Tensor:
    """The bias in the dtype of `x`, shaped to spread along all axes but `dim`."""
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim must be an axis of x with shape {tuple(x.shape)}, got {dim}")
    if b.ndim != 1 or b.shape[0] != x.shape[dim]:
        raise ValueError(f"b must have shape [{x.shape[dim]}] to go along axis {dim} of x, got {tuple(b.shape)}")
    shape = [1] * x.ndim
    shape[dim] = -1
    return b.to(x.dtype).reshape(shape)


def _scaled(
    x: torch.Tensor, bias: torch.Tensor | None, act: str, alpha: float, gain: float, inplace: bool
) -> torch.Tensor:
    """gain * act(x + b) = act(gain b + gain x): two passes over memory, the second in place."""
    if gain != 1:
        x = x * gain if bias is None else torch.add(bias * gain, x, alpha=gain)
    elif bias is not None:
        x = x.add_(bias) if inplace else x + bias
    own = inplace or gain != 1 or bias is not None
    if act == "lrelu":
        return F.leaky_relu(x, alpha, inplace=own)
    if act == "relu":
        return F.relu(x, inplace=own)
    return x
