"""modulated_conv2d against the paper's formula, one sample and one output channel at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torch_utils_ext.ops.conv2d_resample import conv2d_resample
from torch_utils_ext.ops.modulated_conv2d import modulated_conv2d
from torch_utils_ext.ops.upfirdn2d import setup_filter


def _inputs(kernel: int = 3, n: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn([n, 4, 5, 5], generator=generator, dtype=torch.float64)
    weight = torch.randn([2, 4, kernel, kernel], generator=generator, dtype=torch.float64)
    styles = torch.randn([n, 4], generator=generator, dtype=torch.float64)
    noise = torch.randn([n, 1, 5, 5], generator=generator, dtype=torch.float64)
    return x, weight, styles, noise


def _paper(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, demodulate: bool, **resample: Any
) -> torch.Tensor:
    """Karras 2020, equations 1 and 3, with loops."""
    rows = []
    for image, s in zip(x, styles, strict=True):
        kernels = []
        for kernel in weight:
            scaled = torch.stack([factor * plane for factor, plane in zip(s, kernel, strict=True)])
            kernels.append(scaled / (scaled.square().sum() + 1e-8).sqrt() if demodulate else scaled)
        rows.append(conv2d_resample(image[None], torch.stack(kernels), **resample))
    return torch.cat(rows)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_the_paper(
    up: int, down: int, kernel: int, demodulate: bool, fused: bool, memory_format: torch.memory_format
) -> None:
    x, weight, styles, _ = _inputs(kernel)
    f, padding = setup_filter([1, 3, 3, 1]), kernel // 2
    expected = _paper(x, weight, styles, demodulate, f=f, up=up, down=down, padding=padding)
    x = x.to(memory_format=memory_format)
    shared: dict[str, Any] = {"up": up, "down": down, "padding": padding, "resample_filter": f}
    y = modulated_conv2d(x, weight, styles, demodulate=demodulate, fused_modconv=fused, **shared)
    torch.testing.assert_close(y, expected)
    noise = torch.ones_like(y[:, :1])
    y = modulated_conv2d(x, weight, styles, noise, demodulate=demodulate, fused_modconv=fused, gain=0.5, **shared)
    torch.testing.assert_close(y, expected * 0.5 + noise)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_first_and_second_gradients(kernel: int, demodulate: bool, fused: bool) -> None:
    inputs = tuple(t.requires_grad_() for t in _inputs(kernel, n=2))

    def run(x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return modulated_conv2d(
            x, weight, styles, noise, padding=kernel // 2, demodulate=demodulate, fused_modconv=fused
        )

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_demodulated_output_has_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn([4, 16, 32, 32], generator=generator)
    weight = 100 * torch.randn([8, 16, 3, 3], generator=generator)
    y = modulated_conv2d(x, weight, 5 * torch.randn([4, 16], generator=generator), padding=1, fused_modconv=False)
    assert y[:, :, 1:-1, 1:-1].var(dim=(2, 3)).mean().item() == pytest.approx(1, abs=0.05)


def test_half_precision_does_not_overflow() -> None:
    x, weight, styles, _ = _inputs()
    expected = modulated_conv2d(x, weight, styles, padding=1)
    half = x.to(torch.float16), (300 * weight).float(), (300 * styles).float()
    found = modulated_conv2d(*half, padding=1, fused_modconv=False)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)


def test_half_precision_holds_the_sum_over_many_channels() -> None:
    """Features at their bound of 256 over 512 channels of like weights sum up to 18 times what float16 can hold."""
    x, weight, styles = torch.full([1, 512, 3, 3], 256.0).half(), torch.ones(2, 512, 3, 3), torch.ones(1, 512)
    found = modulated_conv2d(x, weight, styles, fused_modconv=False)
    torch.testing.assert_close(found.float(), torch.full([1, 2, 1, 1], 256 * (512 * 9) ** 0.5), rtol=1e-2, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_styles_of_zero_give_zeros(fused: bool) -> None:
    x, weight, styles, _ = _inputs()
    assert not modulated_conv2d(x, weight, 0 * styles, padding=1, fused_modconv=fused).any()


def test_wrong_shapes_are_named() -> None:
    x, weight, styles, _ = _inputs()
    with pytest.raises(ValueError, match="styles"):
        modulated_conv2d(x, weight, styles[:, :3])
