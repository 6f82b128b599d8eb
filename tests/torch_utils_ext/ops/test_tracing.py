"""torch.compile and torch.export of modules made of the operators: whole graphs, the same values and gradients."""

from __future__ import annotations

import pytest
import torch

from torch_utils_ext.ops.bias_act import bias_act
from torch_utils_ext.ops.conv2d_resample import conv2d_resample
from torch_utils_ext.ops.grid_sample import grid_sample
from torch_utils_ext.ops.modulated_conv2d import modulated_conv2d
from torch_utils_ext.ops.upfirdn2d import setup_filter, upsample2d


class _Layers(torch.nn.Module):
    """A layer of each kind, up and down, at a size that compiles quickly."""

    f: torch.Tensor

    def __init__(self, fused: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.fused = fused
        self.up = torch.nn.Parameter(torch.randn([4, 3, 3, 3], generator=generator))
        self.down = torch.nn.Parameter(torch.randn([2, 4, 3, 3], generator=generator))
        self.bias = torch.nn.Parameter(torch.randn([4], generator=generator))
        self.register_buffer("f", setup_filter([1, 3, 3, 1]))

    def forward(self, x: torch.Tensor, styles: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        y = modulated_conv2d(
            x, self.up, styles, up=2, padding=1, resample_filter=self.f, fused_modconv=self.fused, flip_weight=False
        )
        y = bias_act(y, self.bias, act="lrelu", clamp=3.0, inplace=True)
        y = conv2d_resample(y, self.down, self.f, down=2, padding=1)
        return grid_sample(upsample2d(bias_act(y, act="swish"), self.f), grid)


def _inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn([2, 3, 8, 8], generator=generator, requires_grad=True)
    styles = torch.randn([2, 3], generator=generator, requires_grad=True)
    return x, styles, torch.rand([2, 5, 5, 2], generator=generator) * 2 - 1


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_compiled_whole(fused: bool) -> None:
    layers, inputs = _Layers(fused), _inputs()
    wanted = [*inputs[:2], *layers.parameters()]
    torch.compiler.reset()
    y = torch.compile(layers, fullgraph=True, backend="aot_eager")(*inputs)
    expected = layers(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(y.square().sum(), wanted)
    for a, b in zip(found, torch.autograd.grad(expected.square().sum(), wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_compiled_by_inductor() -> None:
    torch.compiler.reset()
    x = torch.randn([1, 2, 8, 8], requires_grad=True)
    w, f = torch.randn([2, 2, 3, 3], requires_grad=True), setup_filter([1, 3, 3, 1])

    def run(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return bias_act(conv2d_resample(x, w, f, down=2, padding=1), act="lrelu")

    y, expected = torch.compile(run, fullgraph=True)(x, w), run(x, w)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(torch.autograd.grad(y.sum(), [x, w]), torch.autograd.grad(expected.sum(), [x, w]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_exported_whole(strict: bool) -> None:
    layers = _Layers(False)
    inputs = tuple(t.detach() for t in _inputs())
    program = torch.export.export(layers, inputs, strict=strict)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {f"torch_utils_ext.{name}.default" for name in ("bias_act", "upfirdn2d", "grid_sample")} <= names
    torch.testing.assert_close(program.module()(*inputs), layers(*inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compiled_for_any_batch_and_size() -> None:
    torch.compiler.reset()
    f = setup_filter([1, 3, 3, 1])

    def run(x: torch.Tensor) -> torch.Tensor:
        return bias_act(upsample2d(x, f), act="lrelu")

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ([2, 3, 8, 8], [4, 3, 6, 10]):
        x = torch.randn(size, requires_grad=True)
        y, expected = compiled(x), run(x)
        torch.testing.assert_close(y, expected)
        (found,) = torch.autograd.grad(y.square().sum(), x)
        torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), x)[0])
