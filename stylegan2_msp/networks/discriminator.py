"""The StyleGAN2 discriminator: a pyramid of blocks down to 4x4, and the projection on the label."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stylegan2_msp.networks.layers import Conv2dLayer, FullyConnectedLayer
from stylegan2_msp.networks.mapping import MappingNetwork
from stylegan2_msp.networks.precision import Precision, block_precision
from stylegan2_msp.networks.synthesis import check_image_args
from torch_utils_ext.ops.upfirdn2d import downsample2d, setup_filter


class DiscriminatorBlock(nn.Module):
    """The layers of one resolution; the output is half as wide and high.

    Args:
        in_channels: channels of the block above; 0 for the first.
        tmp_channels: channels at this resolution.
        out_channels: channels at half of it.
        resolution: width and height of the input.
        img_channels: channels of the image.
        first_layer_idx: how many layers come before this block.
        architecture: 'orig', 'skip' or 'resnet'.
        precision: dtype and memory format.
        conv_clamp: bound on every convolution's output.
        activation: of every convolution.
        resample_filter: taps of the separable downsampling filter.
        freeze_layers: layers with a lower index than this are not trained (Mo 2020, "Freeze the Discriminator").
    """

    resample_filter: torch.Tensor

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        resolution: int,
        img_channels: int,
        first_layer_idx: int,
        architecture: str,
        precision: Precision,
        conv_clamp: float | None = None,
        activation: str = "lrelu",
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        freeze_layers: int = 0,
    ) -> None:
        super().__init__()
        self.resolution, self.architecture, self.precision = resolution, architecture, precision
        self.first_layer_idx, self.freeze_layers, self.num_layers = first_layer_idx, freeze_layers, 0
        self.register_buffer("resample_filter", setup_filter(resample_filter))
        shared: dict[str, Any] = {"activation": activation, "conv_clamp": conv_clamp}
        down: dict[str, Any] = {"down": 2, "resample_filter": resample_filter}
        if in_channels == 0 or architecture == "skip":
            self.fromrgb = self._layer(img_channels, tmp_channels, 1, **shared)
        self.conv0 = self._layer(tmp_channels, tmp_channels, 3, **shared)
        self.conv1 = self._layer(tmp_channels, out_channels, 3, **shared, **down)
        if architecture == "resnet":
            self.skip = self._layer(tmp_channels, out_channels, 1, bias=False, **down)

    def _layer(self, in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any) -> Conv2dLayer:
        """The next layer in counting order, frozen if its turn comes before `freeze_layers`."""
        index = self.first_layer_idx + self.num_layers
        self.num_layers += 1
        kwargs["trainable"] = index >= self.freeze_layers
        return Conv2dLayer(in_channels, out_channels, kernel_size, **kwargs)

    def forward(
        self, x: torch.Tensor | None, img: torch.Tensor | None, force_fp32: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One step down the pyramid.

        Args:
            x: features [N, in_channels, H, W]; None for the first block.
            img: the image at this resolution [N, img_channels, H, W]; None where the block does not look at it.

        Returns:
            Features [N, out_channels, H/2, W/2], and the image at half size for 'skip', otherwise None.
        """
        if x is not None:
            x = self.precision.place(x, force_fp32)
        if img is not None and (x is None or self.architecture == "skip"):
            img = self.precision.place(img, force_fp32)
            y = self.fromrgb(img)
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == "skip" else None
        assert x is not None
        if self.architecture != "resnet":
            return self.conv1(self.conv0(x)), img
        y = self.skip(x, gain=math.sqrt(0.5))
        return y + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), img


class MinibatchStdLayer(nn.Module):
    """Appends the standard deviation over groups of samples as feature maps (Karras 2018, section 3).

    Sample i belongs to group i mod (N / group size), so that processes with every k-th sample form the same groups.

    Args:
        group_size: samples per group; smaller batches make one group.
        num_channels: how many maps; the features are divided among them.
    """

    def __init__(self, group_size: int = 4, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size, self.num_channels = group_size, num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, C + num_channels, H, W].

        Raises:
            ValueError: the batch cannot be divided into groups.
        """
        n, c, h, w = x.shape
        size = min(self.group_size, n)
        if n % size:
            raise ValueError(f"a batch of {n} cannot be divided into groups of {size} (mbstd_group_size)")
        grouped = x.reshape(size, n // size, self.num_channels, c // self.num_channels, h, w)
        std = ((grouped - grouped.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt()
        maps = std.mean(dim=(2, 3, 4)).repeat(size, 1)[:, :, None, None].expand(-1, -1, h, w)
        return torch.cat([x, maps], dim=1)


class DiscriminatorEpilogue(nn.Module):
    """From 4x4 features to one logit.

    Args:
        in_channels: channels of the features.
        cmap_dim: size of the mapped label; 0 for none.
        resolution: width and height of the features.
        img_channels: channels of the image.
        from_image: whether a fromRGB layer adds the image.
        mbstd_group_size, mbstd_num_channels: of `MinibatchStdLayer`; num_channels 0 leaves it out.
        activation: of every layer.
        conv_clamp: bound on the convolutions' output.
    """

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,
        resolution: int,
        img_channels: int,
        from_image: bool,
        mbstd_group_size: int = 4,
        mbstd_num_channels: int = 1,
        activation: str = "lrelu",
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.cmap_dim = cmap_dim
        self.fromrgb = Conv2dLayer(img_channels, in_channels, 1, activation=activation) if from_image else None
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels else None
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels, in_channels, 3, activation=activation, conv_clamp=conv_clamp
        )
        self.fc = FullyConnectedLayer(in_channels * resolution**2, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def forward(self, x: torch.Tensor | None, img: torch.Tensor | None, cmap: torch.Tensor | None) -> torch.Tensor:
        """Features [N, in_channels, H, W], image and mapped label [N, cmap_dim] -> logits [N, 1]."""
        if x is not None:
            x = x.to(torch.float32)
        if self.fromrgb is not None and img is not None:
            y = self.fromrgb(img.to(torch.float32))
            x = y if x is None else x + y
        assert x is not None
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if cmap is None:
            return x
        # Projection on the label (Miyato and Koyama 2018, equation 2), scaled to unit variance.
        return (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)


class Discriminator(nn.Module):
    """StyleGAN2 discriminator with projection on the label.

    Args:
        c_dim: size of the label, 0 for none.
        img_resolution: width and height of the images, a power of two from 4.
        img_channels: 1 or 3.
        architecture: 'orig', 'skip' or 'resnet' (Karras 2020, figure 7).
        channel_base: a block of resolution r has channel_base / r channels ...
        channel_max: ... but not more than this.
        num_fp16_res: so many of the highest resolutions compute in half precision.
        conv_clamp: bound on every convolution's output; None for no bound.
        cmap_dim: size of the mapped label; None takes the channels at 4x4.
        block_kwargs: further arguments of `DiscriminatorBlock`: activation, resample_filter, freeze_layers,
            fp16_channels_last (channels_last memory in half precision on accelerators).
        mapping_kwargs: further arguments of `MappingNetwork`.
        epilogue_kwargs: further arguments of `DiscriminatorEpilogue`.
        half_dtype: 'float16' (float32 on CPUs) or 'bfloat16'.
    """

    def __init__(
        self,
        c_dim: int,
        img_resolution: int,
        img_channels: int,
        architecture: str = "resnet",
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        conv_clamp: float | None = None,
        cmap_dim: int | None = None,
        block_kwargs: dict[str, Any] | None = None,
        mapping_kwargs: dict[str, Any] | None = None,
        epilogue_kwargs: dict[str, Any] | None = None,
        half_dtype: str = "float16",
    ) -> None:
        super().__init__()
        self.init_kwargs: dict[str, Any] = copy.deepcopy(
            {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        )
        check_image_args(img_resolution, img_channels, architecture)
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        self.block_resolutions = [2**i for i in range(img_resolution.bit_length() - 1, 2, -1)]
        channels = {r: min(channel_base // r, channel_max) for r in [*self.block_resolutions, 4]}
        cmap_dim = (channels[4] if cmap_dim is None else cmap_dim) if c_dim else 0
        block_kwargs = dict(block_kwargs or {})
        last = bool(block_kwargs.pop("fp16_channels_last", False))
        num_layers = 0
        for r in self.block_resolutions:
            block = DiscriminatorBlock(
                channels[r] if r < img_resolution else 0,
                channels[r],
                channels[r // 2],
                r,
                img_channels,
                first_layer_idx=num_layers,
                architecture=architecture,
                precision=block_precision(r, img_resolution, num_fp16_res, half_dtype, last),
                conv_clamp=conv_clamp,
                **block_kwargs,
            )
            self.add_module(f"b{r}", block)
            num_layers += block.num_layers
        if c_dim:
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, num_ws=None, **(mapping_kwargs or {}))
        self.b4 = DiscriminatorEpilogue(
            channels[4],
            cmap_dim,
            4,
            img_channels,
            from_image=architecture == "skip" or img_resolution == 4,
            conv_clamp=conv_clamp,
            **(epilogue_kwargs or {}),
        )

    def forward(self, img: torch.Tensor, c: torch.Tensor | None, force_fp32: bool = False) -> torch.Tensor:
        """Images [N, img_channels, H, W] in [-1, 1] and labels [N, c_dim] -> logits, float32 [N, 1].

        Raises:
            ValueError: the images or labels have another shape than the network was made for.
        """
        size = (self.img_channels, self.img_resolution, self.img_resolution)
        if img.ndim != 4 or tuple(img.shape[1:]) != size:
            raise ValueError(f"img must have shape [N, {size[0]}, {size[1]}, {size[2]}], got {tuple(img.shape)}")
        x: torch.Tensor | None = None
        left: torch.Tensor | None = img
        for r in self.block_resolutions:
            x, left = self.get_submodule(f"b{r}")(x, left, force_fp32)
        cmap = self.mapping(None, c) if self.c_dim else None
        return self.b4(x, left, cmap)
