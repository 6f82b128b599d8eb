"""Bilinear sampling of images at given places, with gradients of every order for the images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from torch_utils_ext.ops import library

_BILINEAR, _ZEROS = 0, 0  # how the native operator numbers its modes


def grid_sample(input: torch.Tensor, grid: torch.Tensor, impl: str = "auto") -> torch.Tensor:
    """Samples images bilinearly; outside of them is zero (padding_mode='zeros', align_corners=False).

    Before torch 2.13 `torch.nn.functional.grid_sample` can be differentiated only once, which rules out gradient
    penalties through an augmentation. Sampling is linear in the images: its derivative is the adjoint, whose
    derivative is sampling again, so this one can be differentiated any number of times with respect to `input`.

    Args:
        input: images [N, C, H, W].
        grid: places [N, h, w, 2] as (x, y), -1 and 1 at the outer edges of the outermost pixels. A constant. With
            images in half precision it may be float32, and should be.
        impl: 'auto' (or 'cuda', the family's word for it) is the quick one, 'ref' gathers the four neighbours in plain
            differentiable steps.

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
    library.check_impl(impl)
    grid = grid.to(_exact(input.dtype))
    if impl == "ref":
        return _grid_sample_ref(input, grid)
    if library.takes_registered(input):
        return _SAMPLE(input, grid)
    return _Sample.apply(input, grid, False) if torch.is_grad_enabled() else _sample(input, grid)


def _exact(dtype: torch.dtype) -> torch.dtype:
    """Places and weights in half precision would be off by whole pixels."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _grid_sample_ref(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The definition: the four pixels around each place, weighted by how near they are."""
    dtype, input = input.dtype, input.to(grid.dtype)
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
    return result.permute(0, 3, 1, 2).to(dtype)


def _sample(input: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    if input.numel() == 0 or grid.numel() == 0:
        return input.new_zeros([*input.shape[:2], *grid.shape[1:3]])
    y = F.grid_sample(input.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return y.to(input.dtype).contiguous(memory_format=library.memory_format(input))


def _scatter(values: torch.Tensor, grid: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The adjoint of `_sample`: each value spread over the four pixels around its place."""
    size = [*values.shape[:2], height, width]
    if values.numel() == 0 or 0 in size:
        return values.new_zeros(size)
    wide = values.to(grid.dtype)
    image = wide.new_zeros([1]).expand(size)  # only its shape and dtype count
    gradients = torch.ops.aten.grid_sampler_2d_backward(wide, image, grid, _BILINEAR, _ZEROS, False, [True, False])
    return gradients[0].to(values.dtype).contiguous(memory_format=library.memory_format(values))


class _Sample(torch.autograd.Function):
    """Images -> samples."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, grid: torch.Tensor, registered: bool) -> torch.Tensor:
        ctx.save_for_backward(grid)
        ctx.size = input.shape[2:]
        ctx.registered = registered
        return (_sample_below if registered else _sample)(input, grid)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grid,) = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        return _Scatter.apply(grads[0], grid, *ctx.size, ctx.registered) if wanted else None, None, None


class _Scatter(torch.autograd.Function):
    """Samples -> images."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, grid: torch.Tensor, height: int, width: int, registered: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(grid)
        ctx.registered = registered
        return (_scatter_below if registered else _scatter)(values, grid, height, width)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grid,) = ctx.saved_tensors
        found = _Sample.apply(grads[0], grid, ctx.registered) if ctx.needs_input_grad[0] else None
        return found, None, None, None, None


def _empty(x: torch.Tensor, *size: int) -> torch.Tensor:
    return torch.empty([*x.shape[:2], *size], dtype=x.dtype, device=x.device, memory_format=library.memory_format(x))


_SAMPLE = library.register(
    "grid_sample",
    "(Tensor input, Tensor grid) -> Tensor",
    _sample,
    lambda input, grid: _empty(input, *grid.shape[1:3]),
    lambda input, grid: _Sample.apply(input, grid, True),
)
_SCATTER = library.register(
    "grid_scatter",
    "(Tensor values, Tensor grid, SymInt height, SymInt width) -> Tensor",
    _scatter,
    lambda values, grid, *size: _empty(values, *size),
    lambda values, grid, *size: _Scatter.apply(values, grid, *size, True),
)
_sample_below, _scatter_below = library.below_autograd(_SAMPLE), library.below_autograd(_SCATTER)
