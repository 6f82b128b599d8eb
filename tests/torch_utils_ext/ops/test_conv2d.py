"""conv2d and conv_transpose2d against PyTorch's own, up to third gradients, and without work nobody asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torch_utils_ext.ops import conv2d as ops

# height and width, kernel, stride, padding, groups; strides that leave a remainder included
CASES = [
    ((5, 6), 3, 1, (1, 1), 1),
    ((5, 6), 3, 1, (0, 2), 2),
    ((6, 7), 3, 2, (0, 0), 1),
    ((6, 5), 3, 2, (1, 1), 2),
    ((4, 4), 1, 1, (0, 0), 1),
    ((8, 9), 2, 3, (0, 1), 1),
]


def _inputs(size: tuple[int, int], kernel: int, groups: int, transposed: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = [4, 6 // groups] if transposed else [6, 4 // groups]
    x = torch.randn([2, 4, *size], generator=generator, dtype=torch.float64, requires_grad=True)
    w = torch.randn([*shape, kernel, kernel], generator=generator, dtype=torch.float64, requires_grad=True)
    return [x, w]


def _derivatives(function: Any, x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
    """Value, gradients, gradients of their squared norm, and of that one's."""
    found = [function(x, w).sin()]
    for _ in range(3):
        found += torch.autograd.grad(found[-1].square().sum() + found[0].sum(), [x, w], create_graph=True)
    return found


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "groups"), CASES)
def test_equals_pytorch(
    size: tuple[int, int], kernel: int, stride: int, padding: tuple[int, int], groups: int, transposed: bool
) -> None:
    own, known = (ops.conv_transpose2d, F.conv_transpose2d) if transposed else (ops.conv2d, F.conv2d)
    settings: dict[str, Any] = {"stride": stride, "padding": padding, "groups": groups}
    inputs = _inputs(size, kernel, groups, transposed)
    found = _derivatives(lambda x, w: own(x, w, **settings), *inputs)
    expected = _derivatives(lambda x, w: known(x, w, **settings), *inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    found[0].sum().backward()
    torch.testing.assert_close(inputs[1].grad, torch.autograd.grad(expected[0].sum(), inputs[1])[0])


def test_a_penalty_on_the_input_gradient_computes_no_weight_gradient_on_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted: list[tuple[bool, bool]] = []
    gradients = ops._gradients

    def counted(grad: Any, x: Any, w: Any, how: Any, asked: tuple[bool, bool]) -> Any:
        wanted.append(asked)
        return gradients(grad, x, w, how, asked)

    monkeypatch.setattr(ops, "_gradients", counted)
    x, w = _inputs((5, 5), 3, 1, False)
    y = ops.conv2d(x, 2 * w, padding=(1, 1)).tanh()
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert wanted == []
    slope.square().sum().backward()
    assert w.grad is not None
    assert any(for_w for _, for_w in wanted)
    wanted.clear()
    torch.autograd.grad(ops.conv2d(x, 2 * w).sum(), x)
    torch.autograd.grad(ops.conv2d(x, w).sum(), w)
    assert wanted == [(True, False), (False, True)]


def test_frozen_weights_get_none() -> None:
    x, w = _inputs((5, 5), 3, 1, False)
    y = ops.conv2d(x, w.detach())
    y.sum().backward()
    assert x.grad is not None
    assert w.grad is None
    with torch.no_grad():
        assert torch.equal(ops.conv2d(x, w), y)
