"""Pad, upsample, filter and downsample images in one kernel; the filters that StyleGAN uses have kernels of their own."""

from __future__ import annotations

import torch

from torch_utils_ext.build import KernelsUnavailable


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> torch.Tensor:
    """`torch_utils_ext.ops.upfirdn2d.upfirdn2d` of CUDA images [N, C, H, W]; `f` float32 [h, w], or [n] if separable."""
    raise KernelsUnavailable("not written yet")
