"""conv2d_resample against its definition, resample, convolve, resample, with two orders of gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torch_utils_ext.ops.conv2d_resample import conv2d_resample
from torch_utils_ext.ops.upfirdn2d import setup_filter, upfirdn2d

# up, down, kernel, padding, groups, flip_weight, flip_filter
CASES: list[tuple[int, int, int, Any, int, bool, bool]] = [
    (1, 1, 3, 1, 1, True, False),
    (1, 1, 3, [2, 1], 2, False, False),
    (1, 1, 3, [0, 1, -1, 2], 1, True, False),
    (1, 2, 3, 1, 1, True, False),
    (1, 2, 1, 0, 1, True, True),
    (1, 2, 3, [1, 1, 0, 2], 2, False, True),
    (2, 1, 3, 1, 1, True, False),
    (2, 1, 3, 1, 1, False, True),
    (2, 1, 3, [0, 3, 1, 2], 2, True, False),
    (2, 1, 1, 0, 1, True, False),
    (4, 1, 3, 1, 1, False, False),
    (1, 4, 3, 1, 1, True, False),
    (2, 2, 3, 1, 1, True, False),
    (2, 2, 1, 0, 2, False, False),
]


def _definition(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None,
    up: int,
    down: int,
    padding: Any,
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
) -> torch.Tensor:
    """Each step as it stands, with zeros around the image that keep it centred under every filter."""
    pads = [padding] * 4 if isinstance(padding, int) else list(padding)
    pads = [pads[0], pads[0], pads[1], pads[1]] if len(pads) == 2 else pads
    taps = 1 if f is None else f.shape[0]
    for side in (0, 2):
        if up > 1:
            pads[side] += (taps + up - 1) // 2
            pads[side + 1] += (taps - up) // 2
        if down > 1:
            pads[side] += (taps - down + 1) // 2
            pads[side + 1] += (taps - down) // 2
    if up > 1:
        x = upfirdn2d(x, f, up=up, padding=pads, gain=up**2, flip_filter=flip_filter, impl="ref")
    else:
        x = F.pad(x, pads)
    x = F.conv2d(x, w if flip_weight else w.flip(2, 3), groups=groups)
    return upfirdn2d(x, f, down=down, flip_filter=flip_filter, impl="ref") if down > 1 else x


def _inputs(kernel: int, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn([2, 4, 6, 8], generator=generator, dtype=torch.float64)
    w = torch.randn([6, 4 // groups, kernel, kernel], generator=generator, dtype=torch.float64)
    return x, w


@pytest.mark.parametrize("taps", [None, [1, 3, 3, 1], [1, 2, 3]])
@pytest.mark.parametrize("case", CASES)
def test_equals_its_definition(case: tuple[int, int, int, Any, int, bool, bool], taps: list[float] | None) -> None:
    up, down, kernel, padding, groups, flip_weight, flip_filter = case
    x, w = _inputs(kernel, groups)
    f = None if taps is None else setup_filter(taps)
    expected = _definition(x, w, f, up, down, padding, groups, flip_weight, flip_filter)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        y = conv2d_resample(
            x.to(memory_format=memory_format), w, f, up, down, padding, groups, flip_weight, flip_filter
        )
        torch.testing.assert_close(y, expected)
    slow = conv2d_resample(x, w, f, up, down, padding, groups, flip_weight, flip_filter, impl="ref")
    torch.testing.assert_close(slow, expected)


@pytest.mark.parametrize("case", [case for case in CASES if case[0] * case[1] <= 2])
def test_first_and_second_gradients(case: tuple[int, int, int, Any, int, bool, bool]) -> None:
    up, down, kernel, padding, groups, flip_weight, flip_filter = case
    x, w = _inputs(kernel, groups)
    x, w = x[:1, :, :4, :4].clone().requires_grad_(), w[: 2 * groups].clone().requires_grad_()
    f = setup_filter([1, 3, 3, 1])

    def run(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return conv2d_resample(x, w, f, up, down, padding, groups, flip_weight, flip_filter)

    assert torch.autograd.gradcheck(run, (x, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, w), fast_mode=True)


@pytest.mark.parametrize(("up", "down", "kernel"), [(1, 1, 3), (2, 1, 3), (1, 2, 3), (1, 2, 1), (2, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_stays_so(up: int, down: int, kernel: int, dtype: torch.dtype) -> None:
    x, w = _inputs(kernel, 1)
    x = x.to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    y = conv2d_resample(x, w.to(dtype), setup_filter([1, 3, 3, 1]), up, down, kernel // 2)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_constant_images_keep_their_value() -> None:
    x, f = torch.ones([1, 1, 16, 16]), setup_filter([1, 3, 3, 1])
    for up, down in ((2, 1), (1, 2)):
        y = conv2d_resample(x, torch.ones([1, 1, 1, 1]), f, up=up, down=down)
        torch.testing.assert_close(y[..., 3:-3, 3:-3], torch.ones_like(y[..., 3:-3, 3:-3]))


def test_wrong_arguments_are_named() -> None:
    x, w = _inputs(3, 1)
    with pytest.raises(ValueError, match="positive integers"):
        conv2d_resample(x, w, up=0)
    with pytest.raises(ValueError, match="padding must be"):
        conv2d_resample(x, w, padding=[1, 2, 3])
    with pytest.raises(ValueError, match="impl must be"):
        conv2d_resample(x, w, impl="fast")
