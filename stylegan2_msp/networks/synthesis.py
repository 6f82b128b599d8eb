"""The pyramid of blocks that turns the latents ws into an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stylegan2_msp.networks.layers import NOISE_MODES, Conv2dLayer, SynthesisLayer, ToRGBLayer
from stylegan2_msp.networks.precision import Precision, block_precision
from torch_utils_ext.ops.upfirdn2d import setup_filter, upsample2d
from torch_utils_ext.rng import BatchRng

ARCHITECTURES = ("orig", "skip", "resnet")


def check_image_args(img_resolution: int, img_channels: int, architecture: str) -> None:
    """Validates what generator and discriminator are both told about images.

    Raises:
        ValueError: the size is not a power of two of at least 4, or a channel count or architecture is unknown.
    """
    if img_resolution < 4 or img_resolution & (img_resolution - 1):
        raise ValueError(f"img_resolution must be a power of two of at least 4, got {img_resolution}")
    if img_channels < 1:
        raise ValueError(f"img_channels must be at least 1, got {img_channels}")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")


class SynthesisBlock(nn.Module):
    """The layers of one resolution.

    Args:
        in_channels: channels of the block below; 0 for the first, which starts from a learned constant.
        out_channels: channels of this block.
        w_dim: size of w.
        resolution: width and height of this block.
        img_channels: channels of the image.
        is_last: whether the image leaves the network here.
        architecture: 'orig', 'skip' or 'resnet' (Karras 2020, figure 7).
        precision: dtype and memory format.
        resample_filter: taps of the separable upsampling filter.
        conv_clamp: bound on every convolution's output.
        layer_kwargs: further arguments of `SynthesisLayer` (use_noise, activation).
    """

    resample_filter: torch.Tensor
    const: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: str,
        precision: Precision,
        resample_filter: Sequence[float],
        conv_clamp: float | None,
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        self.in_channels, self.resolution, self.architecture = in_channels, resolution, architecture
        self.precision = precision
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        shared = {"resample_filter": resample_filter, "conv_clamp": conv_clamp, **layer_kwargs}
        if in_channels == 0:
            self.const = nn.Parameter(torch.randn([out_channels, resolution, resolution]))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=2, **shared)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, **shared)
        self.num_conv = 2 if in_channels else 1
        self.num_torgb = int(is_last or architecture == "skip")
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if in_channels and architecture == "resnet":
            self.skip = Conv2dLayer(in_channels, out_channels, 1, bias=False, up=2, resample_filter=resample_filter)

    def forward(
        self,
        x: torch.Tensor | None,
        img: torch.Tensor | None,
        ws: torch.Tensor,
        noise_mode: str = "random",
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        rng: BatchRng | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One step up the pyramid.

        Args:
            x: features [N, in_channels, H/2, W/2]; None for the first block.
            img: the image so far, float32 [N, img_channels, H/2, W/2]; None if there is none.
            ws: the latents of this block's layers, [N, num_conv + num_torgb, w_dim].

        Returns:
            Features [N, out_channels, H, W] and the image so far, float32 [N, img_channels, H, W].
        """
        w = ws.to(torch.float32).unbind(dim=1)
        n = ws.shape[0]
        if fused_modconv is None:
            fused_modconv = self._fuses(n, ws.device, force_fp32)
        how: dict[str, Any] = {"noise_mode": noise_mode, "fused_modconv": fused_modconv, "rng": rng}
        if x is None:
            x = self.precision.place(self.const[None].expand(n, -1, -1, -1), force_fp32)
            x = self.conv1(x, w[0], **how)
        else:
            x = self._climb(self.precision.place(x, force_fp32), w, how)
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.num_torgb:
            y = self.torgb(x, w[self.num_conv], fused_modconv=fused_modconv).to(torch.float32)
            img = y if img is None else img + y
        return x, img

    def _climb(self, x: torch.Tensor, w: Sequence[torch.Tensor], how: dict[str, Any]) -> torch.Tensor:
        if self.architecture != "resnet":
            return self.conv1(self.conv0(x, w[0], **how), w[1], **how)
        y = self.skip(x, gain=math.sqrt(0.5))
        return y + self.conv1(self.conv0(x, w[0], **how), w[1], gain=math.sqrt(0.5), **how)

    def _fuses(self, n: int, device: torch.device, force_fp32: bool) -> bool:
        """Grouped convolutions pay for one sample, and on accelerators for float32 inference."""
        if self.training:
            return False
        return n == 1 or (device.type != "cpu" and self.precision.dtype(device, force_fp32) == torch.float32)


class SynthesisNetwork(nn.Module):
    """Blocks b4, b8, ... up to the image's resolution.

    Args:
        w_dim: size of w.
        img_resolution: width and height of the image, a power of two from 4.
        img_channels: channels of the image.
        channel_base: a block of resolution r has channel_base / r channels ...
        channel_max: ... but not more than this.
        num_fp16_res: so many of the highest resolutions compute in half precision.
        architecture: 'orig', 'skip' or 'resnet'.
        resample_filter: taps of the separable upsampling filter.
        conv_clamp: bound on every convolution's output; None for no bound.
        half_dtype: 'float16' (float32 on CPUs, and never below 8x8) or 'bfloat16'.
        fp16_channels_last: channels_last memory in half precision on accelerators.
        use_noise: add noise in every layer.
        activation: of every layer.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        architecture: str = "skip",
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        half_dtype: str = "float16",
        fp16_channels_last: bool = False,
        use_noise: bool = True,
        activation: str = "lrelu",
    ) -> None:
        super().__init__()
        check_image_args(img_resolution, img_channels, architecture)
        self.img_resolution, self.img_channels, self.w_dim = img_resolution, img_channels, w_dim
        self.block_resolutions = [2**i for i in range(2, img_resolution.bit_length())]
        self.num_ws = 0
        below = 0
        for resolution in self.block_resolutions:
            channels = min(channel_base // resolution, channel_max)
            block = SynthesisBlock(
                below,
                channels,
                w_dim,
                resolution,
                img_channels,
                is_last=resolution == img_resolution,
                architecture=architecture,
                precision=block_precision(resolution, img_resolution, num_fp16_res, half_dtype, fp16_channels_last),
                resample_filter=resample_filter,
                conv_clamp=conv_clamp,
                use_noise=use_noise,
                activation=activation,
            )
            self.add_module(f"b{resolution}", block)
            self.num_ws += block.num_conv + (block.num_torgb if resolution == img_resolution else 0)
            below = channels

    def forward(
        self,
        ws: torch.Tensor,
        noise_mode: str = "random",
        force_fp32: bool = False,
        fused_modconv: bool | None = None,
        rng: BatchRng | None = None,
    ) -> torch.Tensor:
        """Latents ws [N, num_ws, w_dim] -> images, float32 [N, img_channels, H, W], about [-1, 1].

        Args:
            noise_mode: 'random' draws it, 'const' takes the stored maps, 'none' leaves it out.
            force_fp32: ignore half precision.
            fused_modconv: see `modulated_conv2d`; None decides by mode, device and batch.
            rng: where random noise comes from; None is torch's global generator.

        Raises:
            ValueError: ws has the wrong shape, or the noise mode is unknown.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {', '.join(NOISE_MODES)}, got {noise_mode!r}")
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must have shape [N, {self.num_ws}, {self.w_dim}], got {tuple(ws.shape)}")
        x = img = None
        first = 0
        for resolution in self.block_resolutions:
            block = self.get_submodule(f"b{resolution}")
            assert isinstance(block, SynthesisBlock)
            own = ws.narrow(1, first, block.num_conv + block.num_torgb)
            x, img = block(x, img, own, noise_mode, force_fp32, fused_modconv, rng)
            # A toRGB layer shares its w with the first convolution of the next block.
            first += block.num_conv
        assert img is not None
        return img
