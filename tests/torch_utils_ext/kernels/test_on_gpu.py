"""The launchers on a GPU against the plain operators."""

from __future__ import annotations

import itertools

import pytest
import torch

from torch_utils_ext import kernels
from torch_utils_ext.kernels import bias_act as bias_act_kernel
from torch_utils_ext.kernels import upfirdn2d as upfirdn2d_kernel
from torch_utils_ext.ops.bias_act import activation_funcs, bias_act
from torch_utils_ext.ops.upfirdn2d import upfirdn2d

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]

# Of the largest value; the halves' derivatives are formed from a rounded y.
BIAS_ACT = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}
UPFIRDN2D = {torch.float64: 1e-6, torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
LAYOUTS = ("contiguous", "channels_last", "strided", "offset")


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same numbers in another memory layout."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return torch.stack([x, x], dim=-1)[..., 0]
    if layout == "offset":
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    return x


def assert_near(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    error = (got.double() - expected.double()).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error <= tolerance


def assert_format(y: torch.Tensor, layout: str) -> None:
    assert y.is_contiguous(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)


def test_kernels_are_available() -> None:
    """On a GPU, nothing may stand in the kernels' way."""
    assert kernels.why_not() is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", list(BIAS_ACT), ids=str)
@pytest.mark.parametrize("act", list(activation_funcs))
def test_bias_act(act: str, dtype: torch.dtype, layout: str) -> None:
    """Values and both derivatives."""
    torch.manual_seed(0)
    for shape, clamp in itertools.product(((4, 16, 24, 40), (3, 5, 17, 19)), (None, 0.7)):
        x, dy, ddx = (laid_out(torch.randn(shape, device="cuda").to(dtype), layout) for _ in range(3))
        b = torch.randn(shape[1], device="cuda").to(dtype)
        settings = (1, act, 0.3, 1.7)
        y = bias_act_kernel.forward(x, b, *settings, clamp)
        assert_format(y, layout)
        assert_near(y, bias_act(x.double(), b.double(), *settings, clamp, impl="ref"), BIAS_ACT[dtype])
        exact = x.double().requires_grad_()
        free = bias_act(exact, b.double(), *settings, None, impl="ref")
        (slope,) = torch.autograd.grad(free, exact, dy.double(), create_graph=True)
        bound = torch.tensor(clamp or float("inf")).to(dtype)
        reached = free.detach().abs() >= (clamp or float("inf")) if act == "swish" else y.abs() >= bound
        seen = (x, b, None) if act == "swish" else (None, None, y)
        dx = bias_act_kernel.grad(dy, *seen, *settings, clamp)
        assert_near(dx, slope.detach().masked_fill(reached, 0), BIAS_ACT[dtype])
        if act not in ("linear", "relu", "lrelu"):
            (bend,) = torch.autograd.grad(slope, exact, ddx.double())
            d2x = bias_act_kernel.grad2(ddx, dy, *seen, *settings, clamp)
            assert_near(d2x, bend.masked_fill(reached, 0), BIAS_ACT[dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", list(UPFIRDN2D), ids=str)
def test_upfirdn2d(dtype: torch.dtype, layout: str) -> None:
    """StyleGAN's filters, odd sizes, negative padding, and filters that only the general kernel takes."""
    torch.manual_seed(0)
    square, separable = torch.randn(4, 4, device="cuda"), torch.randn(12, device="cuda")
    calls = [
        (square, (1, 1), (1, 1), (2, 1, 2, 1)),
        (square, (1, 1), (1, 1), (2, 2, 2, 2)),
        (square, (2, 2), (1, 1), (2, 1, 2, 1)),
        (square, (1, 1), (2, 2), (1, 1, 1, 1)),
        (square, (2, 1), (1, 2), (5, -2, -1, 3)),
        (separable, (2, 2), (1, 1), (6, 5, 6, 5)),
        (separable, (1, 1), (2, 2), (5, 5, 5, 5)),
        (torch.randn(9, 11, device="cuda"), (3, 1), (2, 5), (4, 9, 4, 4)),
        (torch.randn(31, device="cuda"), (1, 1), (1, 1), (15, 15, 15, 15)),
    ]
    for shape, (f, up, down, padding), flip in itertools.product(
        ((4, 64, 32, 64), (2, 3, 33, 65), (1, 2, 24, 16)), calls, (False, True)
    ):
        x = laid_out(torch.randn(shape, device="cuda").to(dtype), layout)
        y = upfirdn2d_kernel.upfirdn2d(x, f, up, down, padding, flip, 1.5)
        assert_format(y, layout)
        expected = upfirdn2d(x.double(), f.double(), up, down, padding, flip, 1.5, impl="ref")
        assert_near(y, expected, UPFIRDN2D[dtype])


def test_other_streams_and_threads() -> None:
    """Work goes to torch's current stream, in order with what is there."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.zeros(64, 512, 64, 64, dtype=torch.float16, device="cuda")
        for _ in range(20):
            x = bias_act_kernel.forward(x.add_(1), None, 1, "linear", 0.0, 1.0, None)
    stream.synchronize()
    assert (x == 20).all()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_more_than_2_to_31_elements(layout: str) -> None:
    """The last images of a batch of 2.2 thousand million numbers."""
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("less than 24 GiB of GPU memory free")
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.empty(132, 256, 256, 256, dtype=torch.float16, device="cuda", memory_format=memory)
    for image in x:
        image.normal_()
    b = torch.randn(256, device="cuda").half()
    f = torch.randn(4, 4, device="cuda")
    y = bias_act_kernel.forward(x, b, 1, "lrelu", 0.2, 1.4, 256.0)
    assert_near(y[-2:], bias_act(x[-2:].double(), b.double(), 1, "lrelu", 0.2, 1.4, 256.0, impl="ref"), 4e-3)
    del y
    y = upfirdn2d_kernel.upfirdn2d(x, f, (1, 1), (2, 2), (1, 1, 1, 1), False, 1.0)
    assert_near(y[-2:], upfirdn2d(x[-2:].double(), f, 1, 2, 1, impl="ref"), 1e-3)
