"""grid_sample against torch's own, its slow reference, and known answers, with two orders of gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from torch_utils_ext.ops.grid_sample import grid_sample


def _inputs(dtype=torch.float64, size=(2, 3, 5, 4), places=(3, 6)):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, dtype=dtype, generator=generator)
    grid = torch.rand([size[0], *places, 2], dtype=dtype, generator=generator) * 3 - 1.5  # some of it outside
    return images, grid


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_values_and_gradient_are_those_of_torch(layout, impl):
    images, grid = _inputs(torch.float32)
    if layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        images, grid = torch.stack([images, -images], dim=-1)[..., 0], grid.transpose(1, 2).contiguous().transpose(1, 2)
    ours, theirs = images.clone().requires_grad_(True), images.clone().requires_grad_(True)
    y = grid_sample(ours, grid, impl=impl)
    expected = F.grid_sample(theirs, grid, align_corners=False)
    torch.testing.assert_close(y, expected)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        torch.autograd.grad(y, ours, weight)[0], torch.autograd.grad(expected, theirs, weight)[0]
    )


def test_first_and_second_gradients(impl):
    images, grid = _inputs()
    images.requires_grad_(True)

    def run(x):
        return grid_sample(x, grid, impl=impl)

    assert torch.autograd.gradcheck(run, [images])
    assert torch.autograd.gradgradcheck(run, [images])


# Largest error of values and gradients, relative to the largest value, against the slow reference in float64.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_derivatives_in_every_dtype(dtype, impl):
    images, grid = _inputs(torch.float32, size=(2, 3, 40, 33))
    images = images.to(dtype)

    def derivatives(x, grid, impl):
        x = x.requires_grad_(True)
        y = grid_sample(x, grid, impl=impl)
        (dx,) = torch.autograd.grad((y**3).sum() / 3, x, create_graph=True)
        return [y, dx, torch.autograd.grad((dx * x.detach()).sum(), x)[0]]

    expected = derivatives(images.detach().double(), grid.double(), "ref")
    for found, wanted in zip(derivatives(images, grid, impl), expected, strict=True):
        assert found.dtype == dtype
        assert (found.double() - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max()


def test_the_gradient_is_the_adjoint():
    images, grid = _inputs()
    images.requires_grad_(True)
    y = grid_sample(images, grid)
    v = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    (adjoint,) = torch.autograd.grad(y, images, v)
    torch.testing.assert_close((y * v).sum(), (images * adjoint).sum())


def test_pixel_centres_give_the_pixels_and_far_places_zero():
    images, _ = _inputs(size=(1, 2, 4, 4))
    centres = (torch.arange(4, dtype=torch.float64) * 2 + 1) / 4 - 1
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)[None]
    torch.testing.assert_close(grid_sample(images, grid), images)
    assert not grid_sample(images, grid + 4).any()


@pytest.mark.parametrize(("size", "places"), [((0, 3, 4, 4), (2, 2)), ((2, 0, 4, 4), (2, 2)), ((2, 3, 4, 4), (0, 5))])
def test_empty_inputs(size, places):
    images, grid = _inputs(size=size, places=places)
    images.requires_grad_(True)
    y = grid_sample(images, grid)
    assert y.shape == (size[0], size[1], *places)
    y.sum().backward()
    assert images.grad.shape == size


def test_wrong_arguments_are_named():
    images, grid = _inputs()
    with pytest.raises(ValueError, match="must be"):
        grid_sample(images[0], grid)
    with pytest.raises(ValueError, match="must be"):
        grid_sample(images[:1], grid)
    with pytest.raises(ValueError, match="no gradient for the grid"):
        grid_sample(images, grid.requires_grad_(True))
    with pytest.raises(ValueError, match="impl must be"):
        grid_sample(images, grid.detach(), impl="fast")
