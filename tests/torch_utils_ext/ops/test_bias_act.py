"""bias_act against golden arrays, its plain formula, and finite differences of first and second gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_utils_ext.ops import library
from torch_utils_ext.ops.bias_act import activation_funcs, bias_act

# Largest error of values and gradients, relative to the largest value, against the plain formula in float64.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 3e-3, torch.bfloat16: 4e-2}

GOLDEN = Path(__file__).parents[2] / "golden" / "bias_act.npz"
CASES = range(18)


def _case(k: int) -> dict[str, Any]:
    with np.load(GOLDEN) as data:
        assert int(data["n_cases"]) == len(CASES)
        case = {name.split(".", 1)[1]: data[name] for name in data.files if name.startswith(f"{k}.")}
    for name in ("alpha", "gain", "clamp"):
        case[name] = None if math.isnan(case[name]) else float(case[name])
    return case


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("k", CASES)
def test_golden_values_and_gradients(k: int, channels_last: bool, impl: str) -> None:
    case = _case(k)
    x, b = torch.from_numpy(case["x"]), torch.from_numpy(case["b"]).requires_grad_()
    x = x.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format).requires_grad_()
    settings = {name: case[name] for name in ("alpha", "gain", "clamp")}
    y = bias_act(x, b, act=str(case["act"]), impl=impl, **settings)
    grad_x, grad_b = torch.autograd.grad(y, [x, b], torch.from_numpy(case["grad_y"]))
    for found, name in ((y, "y"), (grad_x, "grad_x"), (grad_b, "grad_b")):
        torch.testing.assert_close(found.detach(), torch.from_numpy(case[name]), rtol=1e-5, atol=1e-5)
    if channels_last:
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("act", activation_funcs)
def test_first_and_second_gradients(act: str, clamp: float | None, impl: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn([2, 3, 4], generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn([3], generator=generator, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return bias_act(x, b, act=act, gain=1.3, clamp=clamp, impl=impl)

    assert torch.autograd.gradcheck(run, (x, b))
    assert torch.autograd.gradgradcheck(run, (x, b))


def _derivatives(x: torch.Tensor, b: torch.Tensor | None, how: dict[str, Any]) -> list[torch.Tensor]:
    """Value, and the first to third gradients of fixed mixtures of what came before."""
    inputs = [x] if b is None else [x, b]
    found = [bias_act(x, b, **how)]
    for _ in range(3):
        weight = torch.linspace(-1, 2, found[-1].numel(), dtype=x.dtype).reshape(found[-1].shape)
        found += torch.autograd.grad((found[-1] * weight).sum() + (found[0] * x).sum(), inputs, create_graph=True)
    return [each.detach() for each in found]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("act", activation_funcs)
def test_derivatives_to_the_third_in_every_dtype(act: str, layout: str, dtype: torch.dtype, impl: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x, b = torch.randn([2, 3, 4, 5], generator=generator).to(dtype), torch.randn([3], generator=generator).to(dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.stack([x, x], dim=-1)[..., 0]
    how: dict[str, Any] = {"act": act, "clamp": 1.7}
    wide = [t.double().requires_grad_() for t in (x, b)]
    expected = _derivatives(wide[0], wide[1], {**how, "impl": "ref"})
    found = _derivatives(x.requires_grad_(), b.requires_grad_(), {**how, "impl": impl})
    sure = (expected[0].abs() - 1.7).abs() > 0.02  # a value that rounds to the clamp itself may count as clamped
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == dtype
        error = (a.double() - e).abs()
        worst = error[sure].max() if a.shape == x.shape else error.max()
        assert worst <= TOLERANCE[dtype] * max(1, e.abs().max())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    axis=st.integers(-5, 4),
    act=st.sampled_from(sorted(activation_funcs)),
    alpha=st.sampled_from([None, 0.0, 0.3, -0.5]),
    gain=st.sampled_from([None, 1.0, 0.5, 0.0, -2.0]),
    clamp=st.sampled_from([None, 0.0, 0.4]),
    with_bias=st.booleans(),
    registered=st.booleans(),
)
def test_any_arguments_agree_with_the_formula(
    shape: list[int],
    axis: int,
    act: str,
    alpha: float | None,
    gain: float | None,
    clamp: float | None,
    with_bias: bool,
    registered: bool,
) -> None:
    dim = axis % len(shape)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn([shape[dim]], generator=generator, dtype=torch.float64) if with_bias else None
    how: dict[str, Any] = {"dim": dim, "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "takes_registered", lambda x: registered)
        found = [y := bias_act(x, b, **how), *torch.autograd.grad(y.sum(), x)]
    expected = [y := bias_act(x, b, impl="ref", **how), *torch.autograd.grad(y.sum(), x)]
    torch.testing.assert_close(found[0], expected[0])
    if clamp != 0:  # where nothing but the clamp's own value is left, either slope is right
        torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("act", activation_funcs)
def test_equals_the_plain_formula(act: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x, b = torch.randn([3, 5, 2, 2], generator=generator).to(dtype), torch.randn([5], generator=generator)
    before = x.clone()
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    for bias in (None, b):
        y = bias_act(x, bias, act=act)
        torch.testing.assert_close(y, bias_act(x, bias, act=act, impl="ref"), **tolerance)
        assert y.dtype == dtype
        assert torch.equal(x, before)
        own = bias_act(x.clone(), bias, act=act, inplace=True)
        torch.testing.assert_close(own, y, **tolerance)


def test_bias_along_another_axis() -> None:
    x, b = torch.zeros([2, 3, 4]), torch.arange(4.0)
    torch.testing.assert_close(bias_act(x, b, dim=2), b.expand(2, 3, 4))
    torch.testing.assert_close(bias_act(x, b, dim=-1), b.expand(2, 3, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"act": "gelu"}, "act must be one of"),
        ({"impl": "fast"}, "impl must be"),
        ({"clamp": -1.0}, "clamp must not be negative"),
        ({"b": torch.zeros(4)}, "b must have shape"),
        ({"b": torch.zeros(3), "dim": 5}, "dim must be an axis"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bias_act(torch.zeros([2, 3]), **arguments)


@pytest.mark.parametrize("act", ["linear", "lrelu", "swish"])
def test_a_single_axis_with_a_bias_has_its_gradients_registered_too(act):
    x, b = (torch.randn(7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = torch.ops.torch_utils_ext.bias_act(x, b, 0, act, 0.2, 1.4, None)
    wanted = bias_act(x, b, dim=0, act=act, alpha=0.2, gain=1.4, impl="ref")
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(
        torch.autograd.grad(found.sum(), (x, b)), torch.autograd.grad(wanted.sum(), (x, b)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_a_bias_elsewhere_is_refused():
    with pytest.raises(ValueError, match="b must be on cpu, where x is, got meta"):
        bias_act(torch.zeros(2, 3), torch.zeros(3, device="meta"))
