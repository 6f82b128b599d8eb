"""Bias, activation, gain and clamp of a layer's output in one differentiable operator."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from torch_utils_ext.kernels import bias_act as launchers
from torch_utils_ext.ops import library
from torch_utils_ext.ops.activations import activation_funcs
from torch_utils_ext.ops.library import wide

__all__ = ["activation_funcs", "bias_act"]


class _How(NamedTuple):
    """What the registered operators take after their tensors."""

    dim: int
    act: str
    alpha: float
    gain: float
    clamp: float | None


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
        impl: 'auto' (or 'cuda', the family's word for it) is the quick one, 'ref' the formula as it stands.
        inplace: `x` may be overwritten. Only for a tensor that no other gradient needs, such as a convolution's result.

    Raises:
        ValueError: unknown `act` or `impl`, a bias of the wrong shape, or a negative clamp.
    """
    spec = activation_funcs.get(act)
    if spec is None:
        raise ValueError(f"act must be one of {', '.join(activation_funcs)}, got {act!r}")
    library.check_impl(impl)
    if clamp is not None and clamp < 0:
        raise ValueError(f"clamp must not be negative, got {clamp}")
    alpha = spec.def_alpha if alpha is None else float(alpha)
    gain = spec.def_gain if gain is None else float(gain)
    bias = None if b is None else _along(b, x, dim)
    if impl == "ref" or gain <= 0 or alpha < 0:
        return _formula(x, bias, act, alpha, gain, clamp)
    if library.takes_registered(x) and not (act == "linear" and b is None and gain == 1 and clamp is None):
        flat = None if b is None else b.to(x.dtype)
        return _FORWARD(x, flat, dim % x.ndim, act, alpha, gain, clamp)
    return _quick(x, bias, act, alpha, gain, clamp, inplace)


def _along(b: torch.Tensor, x: torch.Tensor, dim: int) -> torch.Tensor:
    """The bias in the dtype of `x`, shaped to spread along all axes but `dim`."""
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim must be an axis of x with shape {tuple(x.shape)}, got {dim}")
    if b.ndim != 1 or b.shape[0] != x.shape[dim]:
        raise ValueError(f"b must have shape [{x.shape[dim]}] to go along axis {dim} of x, got {tuple(b.shape)}")
    if b.device != x.device:
        raise ValueError(f"b must be on {x.device}, where x is, got {b.device}")
    shape = [1] * x.ndim
    shape[dim] = -1
    return (b if b.dtype == x.dtype else b.to(x.dtype)).reshape(shape)


def _formula(
    x: torch.Tensor, bias: torch.Tensor | None, act: str, alpha: float, gain: float, clamp: float | None
) -> torch.Tensor:
    """The slow reference: every step as it stands."""
    y = activation_funcs[act].func(x if bias is None else x + bias, alpha)
    y = y if gain == 1 else y * gain
    return y if clamp is None else y.clamp(-clamp, clamp)


def _quick(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    inplace: bool = False,
) -> torch.Tensor:
    """The plain PyTorch operators with the fewest passes over memory, for gain > 0 and alpha >= 0."""
    if not activation_funcs[act].scales:
        return _formula(x, bias, act, alpha, gain, clamp)
    # gain * act(x + b) = act(gain b + gain x)
    if gain != 1:
        x = x * gain if bias is None else torch.add(bias * gain, x, alpha=gain)
    elif bias is not None:
        x = x.add_(bias) if inplace else x + bias
    own = inplace or gain != 1 or bias is not None
    if act == "lrelu":
        x = F.leaky_relu(x, alpha, inplace=own)
    elif act == "relu":
        x = F.relu(x, inplace=own)
    return x if clamp is None else F.hardtanh(x, -clamp, clamp)  # its gradient takes one pass where clamp's takes three


def _forward(x: torch.Tensor, b: torch.Tensor | None, *args: Any) -> torch.Tensor:
    how = _How(*args)
    layout = library.memory_format(x)
    x = x.contiguous(memory_format=layout)
    done = library.launch(launchers.forward, x, b, *how)
    if done is not None:
        return done
    y = _quick(x, None if b is None else _along(b, x, how.dim), *how[1:])
    return y.clone() if y is x else y.contiguous(memory_format=layout)


def _grad(
    dy: torch.Tensor, x: torch.Tensor | None, b: torch.Tensor | None, y: torch.Tensor | None, *args: Any
) -> torch.Tensor:
    """dy times the derivative at x + b."""
    how = _How(*args)
    layout = _layout(dy, x, y)
    dy = dy.contiguous(memory_format=layout)
    done = library.launch(launchers.grad, dy, *_for_kernel(x, b, how, layout), y, *how)
    if done is not None:
        return done
    slope = activation_funcs[how.act].slope
    if slope is None or x is None:
        return _grad_of_lines(dy, y, how).contiguous(memory_format=layout)
    at = _inner(x, b, how)
    return _unclamped(wide(dy) * slope(at) * how.gain, at, how).to(dy.dtype).contiguous(memory_format=layout)


def _grad_of_lines(dy: torch.Tensor, y: torch.Tensor | None, how: _How) -> torch.Tensor:
    """The same for a function made of two straight lines: the sign of `y` tells which."""
    dx = dy * how.gain
    if y is not None and how.act != "linear":
        dx = torch.ops.aten.leaky_relu_backward(dx, y, how.alpha if how.act == "lrelu" else 0.0, True)
    return dx if y is None or how.clamp is None else torch.ops.aten.hardtanh_backward(dx, y, -how.clamp, how.clamp)


def _grad2(
    ddx: torch.Tensor, dy: torch.Tensor, x: torch.Tensor, b: torch.Tensor | None, y: torch.Tensor | None, *args: Any
) -> torch.Tensor:
    """What `_grad` gives back to x: ddx * dy times the second derivative at x + b."""
    how = _How(*args)
    layout = _layout(dy, x, y)
    ddx, dy = ddx.contiguous(memory_format=layout), dy.contiguous(memory_format=layout)
    done = library.launch(launchers.grad2, ddx, dy, *_for_kernel(x, b, how, layout), y, *how)
    return _grad2_formula(ddx, dy, x, b, how).contiguous(memory_format=layout) if done is None else done


def _grad2_formula(
    ddx: torch.Tensor, dy: torch.Tensor, x: torch.Tensor, b: torch.Tensor | None, how: _How
) -> torch.Tensor:
    """The same in plain PyTorch, which derivatives beyond the second go through."""
    curve = activation_funcs[how.act].curve
    if curve is None:
        return torch.zeros_like(dy)
    at = _inner(x, b, how)
    return _unclamped(wide(ddx) * wide(dy) * curve(at) * how.gain, at, how).to(dy.dtype)


def _for_kernel(
    x: torch.Tensor | None, b: torch.Tensor | None, how: _How, layout: torch.memory_format
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The kernels find the derivatives of every function but 'swish' in `y`."""
    return (x.contiguous(memory_format=layout), b) if x is not None and how.act == "swish" else (None, None)


def _inner(x: torch.Tensor, b: torch.Tensor | None, how: _How) -> torch.Tensor:
    return wide(x) if b is None else wide(x) + _along(b, wide(x), how.dim)


def _unclamped(dx: torch.Tensor, at: torch.Tensor, how: _How) -> torch.Tensor:
    """Zero where the clamp holds the result of `at`."""
    if how.clamp is None:
        return dx
    y = activation_funcs[how.act].func(at.detach(), how.alpha) * how.gain
    return torch.where(y.abs() < how.clamp, dx, 0)


def _layout(dy: torch.Tensor, x: torch.Tensor | None, y: torch.Tensor | None) -> torch.memory_format:
    known = x if x is not None else y
    return library.memory_format(dy if known is None else known)


class _BiasAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, b: torch.Tensor | None, *how: Any) -> torch.Tensor:
        ctx.how = _How(*how)
        y = _forward_below(x, b, *how)
        smooth = not activation_funcs[ctx.how.act].scales
        of_y = ctx.how.act != "swish" and (ctx.how.act != "linear" or ctx.how.clamp is not None)
        ctx.save_for_backward(x if smooth else None, b if smooth else None, y if of_y else None)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dx = _GRAD(grads[0], *ctx.saved_tensors, *ctx.how)
        db = _sum_but(dx, ctx.how.dim) if ctx.needs_input_grad[1] else None
        return dx, db, *[None] * len(ctx.how)


class _BiasActGrad(torch.autograd.Function):
    """Linear in dy; what it owes to `y` goes straight to `x`, of which `y` is a function."""

    @staticmethod
    def forward(
        ctx: Any, dy: torch.Tensor, x: torch.Tensor | None, b: torch.Tensor | None, y: torch.Tensor | None, *how: Any
    ) -> torch.Tensor:
        ctx.save_for_backward(None if x is None else dy, x, b, y)
        ctx.how = _How(*how)
        return _grad_below(dy, x, b, y, *how)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (ddx,) = grads
        dy, x, b, y = ctx.saved_tensors
        for_dy, for_x, for_b = ctx.needs_input_grad[:3]
        ddy = _GRAD(ddx, x, b, y, *ctx.how) if for_dy else None
        dx = None
        if x is not None and (for_x or for_b):
            further = torch.is_grad_enabled()
            dx = _grad2_formula(ddx, dy, x, b, ctx.how) if further else _GRAD2(ddx, dy, x, b, y, *ctx.how)
        db = _sum_but(dx, ctx.how.dim) if for_b and dx is not None else None
        return ddy, dx, db, None, *[None] * len(ctx.how)


def _sum_but(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x.sum([i for i in range(x.ndim) if i != dim]) if x.ndim > 1 else x


_HOW = "int dim, str act, float alpha, float gain, float? clamp) -> Tensor"
_FORWARD = library.register(
    "bias_act",
    f"(Tensor x, Tensor? b, {_HOW}",
    _forward,
    lambda x, b, *how: torch.empty_like(x, memory_format=library.memory_format(x)),
    _BiasAct.apply,
)
_GRAD = library.register(
    "bias_act_grad",
    f"(Tensor dy, Tensor? x, Tensor? b, Tensor? y, {_HOW}",
    _grad,
    lambda dy, x, b, y, *how: torch.empty_like(dy, memory_format=_layout(dy, x, y)),
    _BiasActGrad.apply,
)
_GRAD2 = library.register(
    "bias_act_grad2",
    f"(Tensor ddx, Tensor dy, Tensor x, Tensor? b, Tensor? y, {_HOW}",
    _grad2,
    lambda ddx, dy, x, b, y, *how: torch.empty_like(dy, memory_format=_layout(dy, x, y)),
)
_forward_below, _grad_below = library.below_autograd(_FORWARD), library.below_autograd(_GRAD)
