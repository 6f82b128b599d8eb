"""Style-modulated convolution with demodulation, the synthesis layer of StyleGAN2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torch_utils_ext.ops.conv2d_resample import conv2d_resample

_EPS = 1e-8


def modulated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    styles: torch.Tensor,
    noise: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    resample_filter: torch.Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused_modconv: bool = True,
    gain: float = 1,
) -> torch.Tensor:
    """Convolves every sample with its own weight (Karras 2020, "Analyzing and Improving", equations 1 and 3).

    w'_ijk = s_i w_ijk; w''_ijk = w'_ijk / sqrt(sum_ik w'_ijk^2 + eps).

    Args:
        x: images [N, C, H, W].
        weight: [O, C, kh, kw].
        styles: factors s on the input channels, [N, C].
        noise: added to the result, broadcast to [N, O, H', W'].
        up, down, padding, resample_filter, flip_weight: see `conv2d_resample`.
        demodulate: divide every output channel by the norm of its weights.
        fused_modconv: True builds the N weights and runs one grouped convolution; False scales input and output of
            an ordinary convolution, the same result with less memory traffic when training.
        gain: factor on the convolution's result, not on the noise.

    Returns:
        [N, O, H', W'] in the dtype of `x`.

    Raises:
        ValueError: shapes that do not belong together.
    """
    n, channels = x.shape[:2]
    if weight.ndim != 4 or weight.shape[1] != channels or styles.shape != (n, channels):
        raise ValueError(
            f"x {tuple(x.shape)} needs weight [O, {channels}, kh, kw] and styles [{n}, {channels}], "
            f"got {tuple(weight.shape)} and {tuple(styles.shape)}"
        )
    if demodulate and x.dtype == torch.float16:
        weight, styles = _tamed(weight, styles)
    factors = _demodulation(weight, styles) if demodulate else None
    if gain != 1:
        factors = factors * gain if factors is not None else styles.new_full([n, weight.shape[0]], gain)
    if weight.shape[2:] == (1, 1) and up == down == 1 and padding == 0:
        y = _pointwise(x, weight, styles, factors)
    elif fused_modconv:
        resample: dict[str, Any] = {"f": resample_filter, "up": up, "down": down, "padding": padding}
        y = _grouped(x, weight, styles, factors, flip_weight=flip_weight, **resample)
    else:
        y = x * styles.to(x.dtype)[:, :, None, None]
        y = conv2d_resample(y, weight.to(x.dtype), resample_filter, up, down, padding, flip_weight=flip_weight)
        y = y if factors is None else y * factors.to(x.dtype)[:, :, None, None]
    return y if noise is None else y.add_(noise.to(y.dtype))


def _tamed(weight: torch.Tensor, styles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales that demodulation takes out again, so that float16 sums stay in range."""
    fan_in = weight[0].numel()
    weight = weight / (weight.abs().amax(dim=(1, 2, 3), keepdim=True) * fan_in**0.5)
    return weight, styles / styles.abs().amax(dim=1, keepdim=True)


def _demodulation(weight: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """1 / sqrt(sum_ik (s_i w_ijk)^2 + eps), [N, O], without making the N weights."""
    energy = weight.square().sum(dim=(2, 3))
    return (styles.square() @ energy.t() + _EPS).rsqrt()


def _own_weights(weight: torch.Tensor, styles: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    """The weights of each sample, [N, O, C, kh, kw]."""
    own = weight[None] * styles[:, None, :, None, None]
    return own if factors is None else own * factors[:, :, None, None, None]


def _grouped(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, factors: torch.Tensor | None, **resample: Any
) -> torch.Tensor:
    """One convolution in which every sample is a group."""
    n, channels, height, width = x.shape
    own = _own_weights(weight, styles, factors).to(x.dtype).reshape(-1, *weight.shape[1:])
    y = conv2d_resample(x.reshape(1, n * channels, height, width), own, groups=n, **resample)
    return y.reshape(n, -1, *y.shape[2:])


def _pointwise(
    x: torch.Tensor, weight: torch.Tensor, styles: torch.Tensor, factors: torch.Tensor | None
) -> torch.Tensor:
    """A 1x1 kernel is one matrix per sample; both memory formats are kept without a copy."""
    n, channels, height, width = x.shape
    own = _own_weights(weight, styles, factors).to(x.dtype).flatten(2)
    if x.is_contiguous(memory_format=torch.channels_last):
        y = x.permute(0, 2, 3, 1).reshape(n, height * width, channels) @ own.transpose(1, 2)
        return y.reshape(n, height, width, -1).permute(0, 3, 1, 2)
    return (own @ x.reshape(n, channels, height * width)).reshape(n, -1, height, width)
