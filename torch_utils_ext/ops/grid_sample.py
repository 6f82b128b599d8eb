"""Bilinear sampling of images at given places, with gradients of every order for the images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

_BILINEAR, _ZEROS = 0, 0  # how the native operator numbers its modes


def grid_sample(input: torch.Tensor, grid: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """Samples images bilinearly; outside of them is zero (padding_mode='zeros', align_corners=False).

    `torch.nn.functional.grid_sample` can be differentiated only once, which rules out gradient penalties through an
    augmentation. Sampling is linear in the images: its derivative is the adjoint, whose derivative is sampling again,
    so this one can be differentiated any number of times with respect to `input`.

    Args:
        input: images [N, C, H, W].
        grid: places [N, h, w, 2] as (x, y), -1 and 1 at the outer edges of the outermost pixels. A constant.
        impl: 'auto' is the quick one, 'ref' gathers the four neighbours in plain differentiable steps.

    Returns:
        [N, C, h, w], same dtype as `input`.

    Raises:
        ValueError: shapes that do not fit, or a grid that wants a gradient.
    """
    if input.ndim != 4 or grid.ndim != 4 or grid.shape[3] != 2 or input.shape[0] != grid.shape[0]:
        raise ValueError(
            f"input and grid must be [N, C, H, W] and [N, h, w, 2], got {tuple(input.shape)} and {tuple(grid.shape)}"
        )
    if grid.requires_grad:
        raise ValueError("grid_sample gives no gradient for the grid; detach it")
    grid = grid.to(input.dtype)
    if impl == "ref":
        return _grid_sample_ref(input, grid)
    if impl != "auto":
        raise ValueError(f"impl must be 'auto' or 'ref', got {impl!r}")
    return _Sample.apply(input, grid)


def _grid_sample_ref(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The definition: the four pixels around each place, weighted by how near they are."""
    n, c, height, width = input.shape
    x = ((grid[..., 0] + 1) * width - 1) / 2
    y = ((grid[..., 1] + 1) * height - 1) / 2
    samples = torch.arange(n, device=input.device)[:, None, None]
    result = input.new_zeros([n, *grid.shape[1:3], c])
    for column in (x.floor(), x.floor() + 1):
        for row in (y.floor(), y.floor() + 1):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
            rows, columns = row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()
            result = result + input[samples, :, rows, columns] * weight[..., None]
    return result.permute(0, 3, 1, 2)


class _Sample(torch.autograd.Function):
    """Images -> samples."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(grid)
        ctx.size = input.shape
        if input.numel() == 0 or grid.numel() == 0:
            return input.new_zeros([*input.shape[:2], *grid.shape[1:3]])
        return F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        (grid,) = ctx.saved_tensors
        return (_Scatter.apply(grads[0], grid, ctx.size) if ctx.needs_input_grad[0] else None), None


class _Scatter(torch.autograd.Function):
    """The adjoint: samples -> images, each value spread over the four pixels around its place."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, grid: torch.Tensor, size: torch.Size) -> torch.Tensor:
        ctx.save_for_backward(grid)
        if values.numel() == 0 or 0 in size:
            return values.new_zeros(size)
        image = values.new_zeros([1]).expand(size)  # only its shape and dtype count
        gradients = torch.ops.aten.grid_sampler_2d_backward(
            values, image, grid, _BILINEAR, _ZEROS, False, [True, False]
        )
        return gradients[0]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (grid,) = ctx.saved_tensors
        return (_Sample.apply(grads[0], grid) if ctx.needs_input_grad[0] else None), None, None
