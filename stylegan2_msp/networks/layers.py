"""Layers that the networks share: equalised learning rate, resampling, modulation, and the choice of dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from torch_utils_ext.ops.bias_act import activation_funcs, bias_act
from torch_utils_ext.ops.conv2d_resample import conv2d_resample
from torch_utils_ext.ops.modulated_conv2d import modulated_conv2d
from torch_utils_ext.ops.upfirdn2d import setup_filter
from torch_utils_ext.rng import BatchRng

NOISE_MODES = ("random", "const", "none")
_FIR = (1, 3, 3, 1)


def normalize_2nd_moment(x: torch.Tensor, dim: int = 1, eps: float = 1e-8) -> torch.Tensor:
    """Scales vectors along `dim` so that their components have mean square one."""
    mean_square = x.square().mean(dim=dim, keepdim=True)
    return x / (mean_square + eps).sqrt()


def split_gain(activation: str, gain: float) -> tuple[float, float]:
    """The factors before and after an activation that make its own gain times `gain`.

    What can go before it costs nothing, because weights and biases take it on, which are smaller than the features.
    """
    spec = activation_funcs[activation]
    return (spec.def_gain * gain, 1.0) if spec.scales else (1.0, spec.def_gain * gain)


class FullyConnectedLayer(nn.Module):
    """act(W x + b) with an equalised learning rate (Karras 2018, "Progressive Growing", section 4.1).

    Args:
        in_features: size of the input vectors.
        out_features: size of the output vectors.
        bias: add a learned bias.
        activation: a name in `activation_funcs`.
        lr_multiplier: how much slower (below one) than the other layers this one learns.
        bias_init: the bias that training starts from.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1,
        bias_init: float = 0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn([out_features, in_features]) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(max(in_features, 1))
        self.bias_gain = lr_multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_features] -> [N, out_features]."""
        weight = self.weight.to(x.dtype) * self.weight_gain
        bias = None
        if self.bias is not None:
            bias = self.bias.to(x.dtype) * self.bias_gain if self.bias_gain != 1 else self.bias.to(x.dtype)
        if self.activation == "linear":
            return nn.functional.linear(x, weight, bias)
        return bias_act(x @ weight.t(), bias, act=self.activation)


def style_layer(w_dim: int, channels: int) -> FullyConnectedLayer:
    """From w to the styles of a modulated convolution, which start around one."""
    return FullyConnectedLayer(w_dim, channels, bias_init=1)


class Conv2dLayer(nn.Module):
    """Convolution with equalised learning rate, optional FIR resampling, bias, activation and clamp.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd width of the square kernel.
        bias: add a learned bias.
        activation: a name in `activation_funcs`.
        up: integer upsampling factor.
        down: integer downsampling factor.
        resample_filter: taps of the separable filter of both resamplings.
        conv_clamp: hold the output within plus or minus this; None for no bound.
        trainable: False keeps weight and bias as buffers (frozen layers of a fine-tuned discriminator).
    """

    resample_filter: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] = _FIR,
        conv_clamp: float | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        self.activation, self.up, self.down, self.conv_clamp = activation, up, down, conv_clamp
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self._keep("weight", torch.randn([out_channels, in_channels, kernel_size, kernel_size]), trainable)
        self._keep("bias", torch.zeros([out_channels]) if bias else None, trainable)

    def _keep(self, name: str, value: torch.Tensor | None, trainable: bool) -> None:
        if trainable and value is not None:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H up / down, W up / down], times `gain`."""
        before, after = split_gain(self.activation, gain)
        weight = (self.weight * (self.weight_gain * before)).to(x.dtype)
        x = conv2d_resample(x, weight, self.resample_filter, self.up, self.down, self.padding, flip_weight=self.up == 1)
        bias = None if self.bias is None else self.bias * before
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, bias, act=self.activation, gain=after, clamp=clamp, inplace=True)


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias and activation (Karras 2020, figure 2c).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        w_dim: size of the latent that styles the layer.
        resolution: width and height of the output.
        kernel_size: odd width of the square kernel.
        up: integer upsampling factor.
        use_noise: add one channel of noise with a learned strength.
        activation: a name in `activation_funcs`.
        resample_filter: taps of the separable upsampling filter.
        conv_clamp: hold the output within plus or minus this; None for no bound.
    """

    resample_filter: torch.Tensor
    noise_const: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = _FIR,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.use_noise = resolution, up, use_noise
        self.activation, self.conv_clamp = activation, conv_clamp
        self.padding = kernel_size // 2
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        self.affine = style_layer(w_dim, in_channels)
        self.weight = nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size]))
        if use_noise:
            self.register_buffer("noise_const", torch.randn([resolution, resolution]))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros([out_channels]))

    def _noise(self, n: int, mode: str, rng: BatchRng | None, gain: float) -> torch.Tensor | None:
        if not self.use_noise or mode == "none":
            return None
        if mode == "const":
            return self.noise_const * (self.noise_strength * gain)
        shape = (1, self.resolution, self.resolution)
        drawn = torch.randn([n, *shape], device=self.bias.device) if rng is None else rng.randn(n, *shape)
        return drawn * (self.noise_strength * gain)

    def forward(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        noise_mode: str = "random",
        fused_modconv: bool = True,
        gain: float = 1,
        rng: BatchRng | None = None,
    ) -> torch.Tensor:
        """x [N, in_channels, H, W] and w [N, w_dim] -> [N, out_channels, resolution, resolution], times `gain`."""
        before, after = split_gain(self.activation, gain)
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            noise=self._noise(x.shape[0], noise_mode, rng, before),
            up=self.up,
            padding=self.padding,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
            fused_modconv=fused_modconv,
            gain=before,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        return bias_act(x, self.bias * before, act=self.activation, gain=after, clamp=clamp, inplace=True)


class ToRGBLayer(nn.Module):
    """Modulated convolution to image channels, without demodulation, noise or activation."""

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, kernel_size: int = 1, conv_clamp: float | None = None
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = style_layer(w_dim, in_channels)
        self.weight = nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size]))
        self.bias = nn.Parameter(torch.zeros([out_channels]))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x: torch.Tensor, w: torch.Tensor, fused_modconv: bool = True) -> torch.Tensor:
        """x [N, in_channels, H, W] and w [N, w_dim] -> [N, out_channels, H, W] in the dtype of `x`."""
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            padding=self.weight.shape[-1] // 2,
            demodulate=False,
            fused_modconv=fused_modconv,
            gain=self.weight_gain,
        )
        return bias_act(x, self.bias, clamp=self.conv_clamp, inplace=True)
