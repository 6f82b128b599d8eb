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
    needs_seen = order > 0 and (act != "linear" or clamp is not None)
    if needs_seen and seen is None:
        raise ValueError(f"a derivative of '{act}' needs {'x' if act == 'swish' else 'y'}")
    model = seen if needs_seen and seen is not None else first
    memory = memory_format(model)
    first = first.contiguous(memory_format=memory)
    out = torch.empty_like(first)
    if out.numel() == 0:
        return out
    tensors = [first]
    pointers = [first.data_ptr(), 0, 0, 0, out.data_ptr()]
    for place, tensor in ((1, second), (2, seen if needs_seen else None)):
        if tensor is not None:
            tensor = tensor.to(first.dtype).contiguous(memory_format=memory)
            tensors.append(tensor)
            pointers[place] = tensor.data_ptr()
    if order > 0 and act != "swish":
        b = None
    if b is not None:
        b = b.to(first.dtype).contiguous()
        pointers[3] = b.data_ptr()
    aligned = all(pointer % 16 == 0 for pointer in pointers)
    last = memory == torch.channels_last
    shape = tuple(first.shape)
    plan = launch_for(order, shape, first.dtype, last, aligned, b is not None, dim, act, alpha, gain, clamp)
    run(plan, first.device, *pointers)
    return out


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
