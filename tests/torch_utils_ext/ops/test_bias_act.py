"""bias_act against golden arrays, its plain formula, and finite differences of first and second gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torch_utils_ext.ops.bias_act import activation_funcs, bias_act

GOLDEN = Path(__file__).parents[2] / "golden" / "bias_act.npz"
CASES = range(18)


def _case(k: int) -> dict[str, Any]:
    with np.load(GOLDEN) as data:
        assert int(data["n_cases"]) == len(CASES)
        case = {name.split(".", 1)[1]: data[name] for name in data.files if name.startswith(f"{k}.")}
    for name in ("alpha", "gain", "clamp"):
        case[name] = None if math.isnan(case[name]) else float(case[name])
    return case


@pytest.mark.parametrize("impl", ["auto", "ref"])
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
def test_first_and_second_gradients(act: str, clamp: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn([2, 3, 4], generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn([3], generator=generator, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return bias_act(x, b, act=act, gain=1.3, clamp=clamp)

    assert torch.autograd.gradcheck(run, (x, b))
    assert torch.autograd.gradgradcheck(run, (x, b))


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
