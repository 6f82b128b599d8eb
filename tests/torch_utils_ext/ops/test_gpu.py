"""The operators on a GPU, where their CUDA kernels run: registration, gradients, layouts, dtypes, large tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torch_utils_ext import kernels
from torch_utils_ext.ops.activations import activation_funcs
from torch_utils_ext.ops.bias_act import bias_act
from torch_utils_ext.ops.grid_sample import grid_sample
from torch_utils_ext.ops.upfirdn2d import setup_filter, upfirdn2d

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

OPS = torch.ops.torch_utils_ext
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
LAYOUTS = ["contiguous", "channels_last", "strided"]


def _image(layout: str, dtype: torch.dtype, size: tuple[int, ...] = (2, 3, 12, 10)) -> torch.Tensor:
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)).to("cuda", dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.stack([x, x], dim=-1)[..., 0]
    return x.requires_grad_()


def test_the_kernels_are_there() -> None:
    assert kernels.why_not() is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("act", ["linear", "lrelu", "swish", "tanh"])
def test_opcheck(act: str, layout: str) -> None:
    x, b, f = _image(layout, torch.float32), torch.randn([3], device="cuda"), setup_filter([1, 3, 3, 1], "cuda")
    torch.library.opcheck(OPS.bias_act.default, (x, b, 1, act, 0.2, 1.4, 0.5))
    torch.library.opcheck(OPS.upfirdn2d.default, (x, f, [2, 2], [1, 1], [2, 1, 2, 1], False, 4.0))
    torch.library.opcheck(OPS.grid_sample.default, (x, torch.rand([2, 4, 5, 2], device="cuda") * 3 - 1.5))


def _derivatives(call: Any, x: torch.Tensor) -> list[torch.Tensor]:
    y = call(x)
    (dx,) = torch.autograd.grad(y.double().square().sum(), x, create_graph=True)
    return [y, dx, torch.autograd.grad(dx.double().square().sum(), x)[0]]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_derivatives_in_every_dtype(layout: str, dtype: torch.dtype) -> None:
    grid = torch.rand([2, 4, 5, 2], generator=torch.Generator().manual_seed(1)) * 2.4 - 1.2
    calls = [lambda x, impl, act=act: bias_act(x, x.new_ones([3]), act=act, impl=impl) for act in activation_funcs]
    for taps in (4, 7, 12):
        f = setup_filter(list(range(1, taps + 1)))
        for how in ({"up": 2, "gain": 4}, {"down": 2}, {}, {"up": (1, 3), "down": (2, 1), "flip_filter": True}):
            calls.append(
                lambda x, impl, f=f, how=how: upfirdn2d(x, f.to(x.device), padding=[6, 5, 7, -1], impl=impl, **how)
            )
    calls.append(lambda x, impl: grid_sample(x, grid.to(x.device), impl=impl))
    x = _image(layout, dtype)
    expected_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for call in calls:
        wide = x.detach().cpu().double().requires_grad_()
        expected = _derivatives(lambda x, call=call: call(x, "ref"), wide)
        for found, wanted in zip(_derivatives(lambda x, call=call: call(x, "auto"), x), expected, strict=True):
            assert found.dtype == dtype
            assert found.is_contiguous(memory_format=expected_format)
            worst = (found.cpu().double() - wanted).abs().max()
            assert worst <= TOLERANCE[dtype] * max(1, wanted.abs().max())


@pytest.mark.parametrize("act", activation_funcs)
def test_gradcheck_of_bias_act(act: str) -> None:
    x = torch.randn([2, 3, 4], device="cuda", dtype=torch.float64, requires_grad=True)
    b = torch.randn([3], device="cuda", dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, b: bias_act(x, b, act=act, clamp=0.7), (x, b))
    assert torch.autograd.gradgradcheck(lambda x, b: bias_act(x, b, act=act, clamp=0.7), (x, b))


@pytest.mark.slow
def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    x = torch.zeros([2, 33, 8192, 4096], device="cuda", dtype=torch.float16)
    x[-1, -1, -1, -1] = 1
    assert x.numel() > 2**31
    y = bias_act(x, torch.ones([33], device="cuda", dtype=torch.float16), act="lrelu", gain=1)
    assert float(y[-1, -1, -1, -1]) == 2
    assert float(y[-1, -1, -1, -2]) == 1
    del y
    y = upfirdn2d(x, setup_filter([1, 3, 3, 1], "cuda"), padding=[2, 1, 2, 1])
    assert float(y[-1, -1, -1, -1]) == pytest.approx(9 / 64, rel=1e-3)
    assert not y[0].any()
