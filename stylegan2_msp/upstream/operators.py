"""Our operators under the names and arguments of the checkout's `torch_utils.ops`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from torch_utils_ext.ops import bias_act, conv2d, conv2d_resample, grid_sample, upfirdn2d

_Number = int | Sequence[int]


def _pair(value: _Number) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _with_bias(y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: _Number = 1,
    padding: _Number = 0,
    dilation: _Number = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Ours for equal strides and no dilation; PyTorch's for the rest, which the family's networks never ask for."""
    (step, other), pads = _pair(stride), _pair(padding)
    if step != other or _pair(dilation) != (1, 1):
        return F.conv2d(input, weight, bias, (step, other), pads, _pair(dilation), groups)
    return _with_bias(conv2d.conv2d(input, weight, step, pads, groups), bias)


def _conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: _Number = 1,
    padding: _Number = 0,
    output_padding: _Number = 0,
    groups: int = 1,
    dilation: _Number = 1,
) -> torch.Tensor:
    """Likewise; nor does ours pad its output."""
    (step, other), pads = _pair(stride), _pair(padding)
    if step != other or _pair(dilation) != (1, 1) or _pair(output_padding) != (0, 0):
        more = (_pair(output_padding), groups, _pair(dilation))
        return F.conv_transpose2d(input, weight, bias, (step, other), pads, *more)
    return _with_bias(conv2d.conv_transpose2d(input, weight, step, pads, groups), bias)


def _grid_sample(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Ours; PyTorch's where the grid wants a gradient, which it can give once."""
    if grid.requires_grad:
        return F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return grid_sample.grid_sample(input, grid)


def _fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(c, a, b)


# Module of `torch_utils.ops` -> names in it and what they become.
OPERATORS: dict[str, dict[str, Callable[..., Any]]] = {
    "bias_act": {"bias_act": bias_act.bias_act},
    "upfirdn2d": {
        "upfirdn2d": upfirdn2d.upfirdn2d,
        "filter2d": upfirdn2d.filter2d,
        "upsample2d": upfirdn2d.upsample2d,
        "downsample2d": upfirdn2d.downsample2d,
    },
    "conv2d_resample": {"conv2d_resample": conv2d_resample.conv2d_resample},
    "conv2d_gradfix": {"conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d},
    "grid_sample_gradfix": {"grid_sample": _grid_sample},
    "fma": {"fma": _fma},
}
