"""What torch.library asks of a registered operator, and what happens where there is no kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from torch_utils_ext.build import KernelsUnavailable
from torch_utils_ext.ops import library
from torch_utils_ext.ops.activations import activation_funcs
from torch_utils_ext.ops.bias_act import bias_act
from torch_utils_ext.ops.grid_sample import grid_sample
from torch_utils_ext.ops.upfirdn2d import setup_filter, upfirdn2d

OPS = torch.ops.torch_utils_ext
LAYOUTS = ["contiguous", "channels_last", "strided"]


def _image(layout: str = "contiguous", seed: int = 0, grad: bool = True) -> torch.Tensor:
    x = torch.randn([2, 3, 4, 5], generator=torch.Generator().manual_seed(seed))
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.stack([x, x], dim=-1)[..., 0]
    return x.requires_grad_(grad)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("act", "clamp"), [("linear", None), ("lrelu", 0.5), ("swish", None), ("tanh", 0.5)])
def test_opcheck_of_bias_act(act: str, clamp: float | None, layout: str) -> None:
    x, b, how = _image(layout), torch.randn([3], requires_grad=True), (1, act, 0.2, 1.4, clamp)
    torch.library.opcheck(OPS.bias_act.default, (x, b, *how))
    y = OPS.bias_act(x, b, *how).detach()
    smooth = not activation_funcs[act].scales
    inner = (x, b) if smooth else (None, None)
    torch.library.opcheck(OPS.bias_act_grad.default, (_image(seed=1), *inner, y, *how))
    if smooth:
        given = [_image(seed=1, grad=False), _image(seed=2, grad=False), x.detach(), b.detach(), y]
        torch.library.opcheck(OPS.bias_act_grad2.default, (*given, *how))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("taps", [4, 12])
def test_opcheck_of_upfirdn2d(taps: int, layout: str) -> None:
    f = setup_filter(list(range(1, taps + 1)))
    for up, down, padding in (([2, 2], [1, 1], [9, 8, 7, 9]), ([1, 1], [2, 1], [9, 9, 12, -1])):
        torch.library.opcheck(OPS.upfirdn2d.default, (_image(layout), f, up, down, padding, False, 4.0))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_of_grid_sample(layout: str) -> None:
    grid = torch.rand([2, 4, 5, 2]) * 3 - 1.5
    torch.library.opcheck(OPS.grid_sample.default, (_image(layout), grid))
    torch.library.opcheck(OPS.grid_scatter.default, (_image(layout), grid, 6, 7))


def _calls(x: torch.Tensor) -> list[torch.Tensor]:
    grid = torch.rand([x.shape[0], 4, 5, 2], generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    return [
        bias_act(x, torch.ones([x.shape[1]]), act="lrelu"),
        bias_act(x, act="swish", clamp=1.0),
        upfirdn2d(x, setup_filter([1, 3, 3, 1]), up=2, padding=[2, 1, 2, 1]),
        upfirdn2d(x, setup_filter(list(range(1, 10))), down=2, padding=9),
        grid_sample(x, grid),
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_and_gradients_have_the_layout_of_the_input(layout: str, impl: str) -> None:
    if impl == "ref":
        return
    x = _image(layout)
    expected = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for y in _calls(x):
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert y.is_contiguous(memory_format=expected)
        assert dx.is_contiguous(memory_format=expected)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5)])
def test_empty_batches_and_channels(shape: tuple[int, ...], impl: str) -> None:
    x = torch.zeros(shape, requires_grad=True)
    for y in _calls(x):
        assert y.shape[:2] == x.shape[:2]
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
        assert dx.shape == x.shape


def test_the_operators_leave_their_arguments_alone() -> None:
    x = _image(grad=False)
    before = x.clone()
    y = OPS.bias_act(x, None, 1, "linear", 0.0, 1.0, None)
    y.add_(1)
    assert torch.equal(x, before)


def test_the_cpu_takes_plain_operators_unless_traced() -> None:
    x = _image()
    assert not library.takes_registered(x)
    assert "BiasAct" not in type(bias_act(x, act="lrelu").grad_fn).__name__


class _Cuda:
    """As much of a CUDA tensor as `launch` looks at."""

    is_cuda = True

    def numel(self) -> int:
        return 1


def test_a_call_without_its_kernel_takes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def launcher(*args: Any) -> torch.Tensor:
        calls.append(args)
        raise KernelsUnavailable("driver too old")

    x: Any = _Cuda()
    for usable in (True, False):
        monkeypatch.setattr(library.kernels, "available", lambda usable=usable: usable)
        assert library.launch(launcher, x, 1) is None
        assert library.takes_registered(x) == usable
    assert calls == [(x, 1)]
    monkeypatch.setattr(library.kernels, "available", lambda: True)
    assert library.launch(lambda x, a: a, x, 5) == 5


def test_a_cpu_tensor_never_reaches_a_kernel() -> None:
    assert library.launch(lambda *args: pytest.fail("launched"), _image()) is None


def test_impl_names() -> None:
    x = _image()
    for word in ("auto", "cuda", "ref"):
        torch.testing.assert_close(bias_act(x, act="lrelu", impl=word), bias_act(x, act="lrelu"))
    with pytest.raises(ValueError, match="impl must be one of auto, cuda, ref, got 'fast'"):
        bias_act(x, impl="fast")


def _registered(x: torch.Tensor) -> list[torch.Tensor]:
    """What every registered operator makes of images."""
    b, grid, f = x[0, :, 0, 0], x.new_zeros([2, 4, 5, 2], dtype=torch.float32), x.new_ones([4], dtype=torch.float32)
    how = (1, "swish", 0.0, 1.4, 0.5)
    return [
        OPS.bias_act(x, b, *how),
        OPS.bias_act_grad(x, x, b, x, *how),
        OPS.bias_act_grad2(x, x, x, b, x, *how),
        OPS.upfirdn2d(x, f, [2, 1], [1, 1], [3, 2, 1, 1], False, 4.0),
        OPS.grid_sample(x, grid),
        OPS.grid_scatter(x, grid, 6, 7),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [*LAYOUTS, "transposed"])
def test_what_tracers_are_told_of_a_result_is_what_comes(layout: str, dtype: torch.dtype) -> None:
    """Shape, dtype and strides; a dense image with its axes exchanged comes out in the common order."""
    x = _image(layout if layout in LAYOUTS else "contiguous", grad=False).to(dtype)
    x = x.transpose(2, 3) if layout == "transposed" else x
    with FakeTensorMode() as mode:
        told = _registered(mode.from_tensor(x))
    for fake, real in zip(told, _registered(x), strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
