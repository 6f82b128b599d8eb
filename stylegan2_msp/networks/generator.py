"""The StyleGAN2 generator: a mapping network and a synthesis network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from stylegan2_msp.networks.mapping import MappingBase, MappingNetwork
from stylegan2_msp.networks.synthesis import SynthesisNetwork


class GeneratorBase(nn.Module):
    """What every generator is: `mapping` from (z, c) to ws, then `synthesis` from ws to samples."""

    mapping: MappingBase
    synthesis: nn.Module

    def forward(
        self,
        z: torch.Tensor,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        **synthesis_kwargs: Any,
    ) -> torch.Tensor:
        """z [N, z_dim] and c [N, c_dim] -> float32 images [N, img_channels, H, W], about [-1, 1], or points [N, 2].

        Args:
            truncation_psi: see the mapping network.
            truncation_cutoff: likewise.
            synthesis_kwargs: of the synthesis network's forward.
        """
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)


class Generator(GeneratorBase):
    """StyleGAN2 generator: images from a latent z and a label c.

    Args:
        z_dim: size of z.
        c_dim: size of c, 0 for none.
        w_dim: size of w.
        img_resolution: width and height, a power of two from 4.
        img_channels: 1 or 3.
        mapping_kwargs: further arguments of `MappingNetwork`.
        synthesis_kwargs: further arguments of `SynthesisNetwork`.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: dict[str, Any] | None = None,
        synthesis_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.init_kwargs: dict[str, Any] = copy.deepcopy(
            {
                "z_dim": z_dim,
                "c_dim": c_dim,
                "w_dim": w_dim,
                "img_resolution": img_resolution,
                "img_channels": img_channels,
                "mapping_kwargs": mapping_kwargs or {},
                "synthesis_kwargs": synthesis_kwargs or {},
            }
        )
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))
