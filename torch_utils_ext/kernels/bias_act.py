"""Bias, activation, gain and clamp in one pass over memory, with first and second derivatives."""

from __future__ import annotations

import functools
import math

import torch

from torch_utils_ext.kernels.launch import SCALARS, Launch, memory_format, run

_THREADS = 256
# Vectors of 16 bytes that a thread takes, by order of the derivative; the kernel's UNITS.
_UNITS = (4, 2, 2)
# Tensors with more elements than this in a step times a bias are indexed by ordinary 64-bit division.
_WIDE = 0x7FFF0000


def forward(
    x: torch.Tensor, b: torch.Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> torch.Tensor:
    """clamp(gain * act(x + b)), for CUDA tensors.

    Args:
        x: any shape; float64, float32, float16 or bfloat16. Contiguous and channels_last formats are kept.
        b: bias [x.shape[dim]], or None.
        dim: the axis that `b` runs along.
        act: a name in `torch_utils_ext.ops.bias_act.activation_funcs`.
        alpha: slope of 'lrelu' below zero.
        gain: factor on the activated value.
        clamp: bound of the result, or None.

    Raises:
        KernelsUnavailable: the kernel cannot be built or loaded.
    """
    return _call(0, x, None, None, b, dim, act, alpha, gain, clamp)


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
    """dy times the derivative of `forward` at x; zero where y is clamped.

    'swish' needs `x` (and `b` if there was one); all others need `y`, but 'linear' only with a clamp. The slope of
    'lrelu' is told from the sign of y, so `alpha` must not be negative.
    """
    return _call(1, dy, None, x if act == "swish" else y, b, dim, act, alpha, gain, clamp)


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
    """ddx * dy times the second derivative of `forward` at x; what it needs of `x`, `b` and `y` is as in `grad`."""
    return _call(2, ddx, dy, x if act == "swish" else y, b, dim, act, alpha, gain, clamp)


def _call(
    order: int,
    first: torch.Tensor,
    second: torch.Tensor | None,
    seen: torch.Tensor | None,
    b: torch.Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> torch.Tensor:
    """Brings the tensors to one memory format, that of `seen` or else of `first`, and launches."""
    if order == 0 or (act == "linear" and clamp is None):
        seen = None
    elif seen is None:
        raise ValueError(f"a derivative of '{act}' needs {'x' if act == 'swish' else 'y'}")
    dtype = first.dtype
    memory = memory_format(first if seen is None else seen)
    first = _as(first, dtype, memory)
    second = None if second is None else _as(second, dtype, memory)
    seen = None if seen is None else _as(seen, dtype, memory)
    b = None if b is None or (order > 0 and act != "swish") else _as(b, dtype, torch.contiguous_format)
    out = torch.empty_like(first)
    if out.numel() == 0:
        return out
    p1, p2, p3, p4, p5 = (0 if t is None else t.data_ptr() for t in (first, second, seen, b, out))
    aligned = (p1 | p2 | p3 | p4 | p5) % 16 == 0
    last = memory is torch.channels_last
    launch = launch_for(order, first.shape, dtype, last, aligned, b is not None, dim, act, alpha, gain, clamp)
    run(launch, first.device, p1, p2, p3, p4, p5)
    return out


def _as(tensor: torch.Tensor, dtype: torch.dtype, memory: torch.memory_format) -> torch.Tensor:
    """The tensor itself in the common case."""
    if tensor.dtype is dtype and tensor.is_contiguous(memory_format=memory):
        return tensor
    return tensor.to(dtype).contiguous(memory_format=memory)


@functools.lru_cache(maxsize=4096)
def launch_for(
    order: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    channels_last: bool,
    aligned: bool,
    with_bias: bool,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Launch:
    """The specialisation and the constants for tensors of one kind; `aligned`: all begin at multiples of 16 bytes."""
    vector = 16 // dtype.itemsize if aligned else 1
    size, step = 1, 1
    if with_bias:
        dim %= len(shape)
        order_in_memory = (0, 2, 3, 1) if channels_last else tuple(range(len(shape)))
        after = order_in_memory[order_in_memory.index(dim) + 1 :]
        size, step = shape[dim], math.prod(shape[axis] for axis in after)
    defines = (
        ("K_NAME", "bias_act"),
        ("K_SCALAR", SCALARS[dtype]),
        ("K_ACT", act.upper()),
        ("K_ORDER", str(order)),
        ("K_CLAMP", str(int(clamp is not None))),
        ("K_BIAS", _bias_kind(with_bias, step, size, vector)),
        ("K_WIDE", str(int(step * size >= _WIDE))),
        ("K_VECTOR", str(vector)),
    )
    numel = math.prod(shape)
    blocks = -(-numel // (_UNITS[order] * _THREADS * vector))
    constants = (numel, step, *_divisor(step), size, *_divisor(size))
    numbers = (float(alpha), float(gain), 1.0 / gain if gain else 0.0, 0.0 if clamp is None else float(clamp))
    return Launch("bias_act", defines, (blocks, 1, 1), (_THREADS, 1, 1), constants + numbers)


def _bias_kind(with_bias: bool, step: int, size: int, vector: int) -> str:
    if not with_bias:
        return "BIAS_NONE"
    if step % vector == 0:
        return "BIAS_SHARED"
    return "BIAS_ROW" if step == 1 and size % vector == 0 else "BIAS_ANY"


def _divisor(value: int) -> tuple[int, int]:
    """Factor and shift for which n // value = (high word of n factor + n) >> shift, for all 0 <= n < 2^31.

    T. Granlund, P. Montgomery, "Division by invariant integers using multiplication" (1994), figure 4.1. Values of
    2^31 and more are divided by in the ordinary way; zeros stand for them.
    """
    if value >= 2**31:
        return 0, 0
    shift = (value - 1).bit_length()
    return (2**32 * (2**shift - value)) // value + 1, shift
