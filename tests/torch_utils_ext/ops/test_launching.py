"""The operators over stand-ins for their kernels, which see no more than the kernels do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from torch_utils_ext.kernels import bias_act as bias_act_launchers
from torch_utils_ext.kernels import upfirdn2d as upfirdn2d_launchers
from torch_utils_ext.ops import library
from torch_utils_ext.ops.activations import activation_funcs
from torch_utils_ext.ops.bias_act import bias_act
from torch_utils_ext.ops.upfirdn2d import setup_filter, upfirdn2d

_A = 1.6732632423543772 * 1.0507009873554805
_S = 1.0507009873554805

# First and second derivative of each function, from its own value v.
FROM_VALUE: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[torch.Tensor], Any]]] = {
    "linear": (lambda v: torch.ones_like(v), torch.zeros_like),
    "relu": (lambda v: (v > 0).to(v.dtype), torch.zeros_like),
    "lrelu": (lambda v: torch.where(v > 0, 1.0, 0.2).to(v.dtype), torch.zeros_like),
    "tanh": (lambda v: 1 - v * v, lambda v: -2 * v * (1 - v * v)),
    "sigmoid": (lambda v: v * (1 - v), lambda v: v * (1 - v) * (1 - 2 * v)),
    "elu": (lambda v: torch.where(v > 0, 1.0, v + 1), lambda v: torch.where(v > 0, 0.0, v + 1)),
    "selu": (lambda v: torch.where(v > 0, _S, v + _A), lambda v: torch.where(v > 0, 0.0, v + _A)),
    "softplus": (lambda v: 1 - (-v).exp(), lambda v: (-v).exp() * (1 - (-v).exp())),
}


class StandIn:
    """bias_act's launchers, and how often each was called."""

    def __init__(self) -> None:
        self.calls = {"forward": 0, "grad": 0, "grad2": 0}

    def forward(self, x: torch.Tensor, b: torch.Tensor | None, dim: int, act: str, *how: Any) -> torch.Tensor:
        self.calls["forward"] += 1
        return bias_act(x, b, dim, act, *how, impl="ref").contiguous()

    def grad(self, dy: torch.Tensor, x: Any, b: Any, y: Any, *how: Any) -> torch.Tensor:
        self.calls["grad"] += 1
        return dy * self._derivative(0, dy, x, b, y, *how)

    def grad2(self, ddx: torch.Tensor, dy: torch.Tensor, x: Any, b: Any, y: Any, *how: Any) -> torch.Tensor:
        self.calls["grad2"] += 1
        return ddx * dy * self._derivative(1, dy, x, b, y, *how)

    def _derivative(
        self,
        order: int,
        like: torch.Tensor,
        x: Any,
        b: Any,
        y: Any,
        dim: int,
        act: str,
        alpha: float,
        gain: float,
        clamp: Any,
    ) -> torch.Tensor:
        if act == "swish":
            assert x is not None
            z = x if b is None else x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
            s = torch.sigmoid(z)
            found = (s * (1 + z * (1 - s)), s * (1 - s) * (2 + z * (1 - 2 * s)))[order]
            y = gain * z * s
        else:
            assert x is None
            assert b is None
            assert y is not None or (act == "linear" and clamp is None)
            y = like if y is None else y
            found = FROM_VALUE[act][order](y / gain)
        return gain * (found if clamp is None else torch.where(y.abs() < clamp, found, 0))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    found = StandIn()
    for name in ("forward", "grad", "grad2"):
        monkeypatch.setattr(bias_act_launchers, name, getattr(found, name))
    monkeypatch.setattr(library, "takes_registered", lambda x: True)
    monkeypatch.setattr(library, "launch", lambda launcher, *args: launcher(*args))
    return found


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("act", activation_funcs)
def test_bias_act_is_right_with_what_the_kernels_get(
    act: str, with_bias: bool, clamp: float | None, stand_in: StandIn
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn([2, 3, 4], generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.randn([3], generator=generator, dtype=torch.float64, requires_grad=True) if with_bias else None

    def run(x: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return bias_act(x, b, act=act, gain=1.3, clamp=clamp)

    assert torch.autograd.gradcheck(run, (x, b))
    assert torch.autograd.gradgradcheck(run, (x, b))
    torch.testing.assert_close(run(x, b), bias_act(x, b, act=act, gain=1.3, clamp=clamp, impl="ref"))
    assert stand_in.calls["forward"] > 0
    assert stand_in.calls["grad"] > 0
    assert (stand_in.calls["grad2"] > 0) == (not activation_funcs[act].scales)


def test_upfirdn2d_gives_its_kernel_plain_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def launcher(x: torch.Tensor, f: torch.Tensor, *how: Any) -> torch.Tensor:
        calls.append(how)
        assert f.dtype == torch.float32
        return upfirdn2d(x.detach(), f, *how, impl="ref")

    monkeypatch.setattr(upfirdn2d_launchers, "upfirdn2d", launcher)
    monkeypatch.setattr(library, "takes_registered", lambda x: True)
    monkeypatch.setattr(library, "launch", lambda launcher, *args: launcher(*args))
    x = torch.randn([1, 2, 6, 5], dtype=torch.float64, requires_grad=True)
    for taps in (4, 9):
        f = setup_filter(list(range(1, taps + 1)))
        calls.clear()
        assert torch.autograd.gradcheck(lambda x, f=f: upfirdn2d(x, f, (2, 1), (1, 2), (8, 7, 8, -1), gain=math.pi), x)
        assert calls[0] == ((2, 1), (1, 2), (8, 7, 8, -1), False, math.pi)
        assert any(how[:2] == ((1, 2), (2, 1)) and how[3:] == (True, math.pi) for how in calls)
        assert torch.autograd.gradgradcheck(lambda x, f=f: upfirdn2d(x, f, 2, 1, 8), x)
    calls.clear()
    upfirdn2d(x, f.double(), padding=8)  # the kernels have no float64 filters
    assert calls == []
