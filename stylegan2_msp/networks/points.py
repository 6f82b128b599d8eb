"""Fully connected generator and discriminator for 2-D points, behind the same interface as those for images."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from stylegan2_msp.networks.embedding import FeatureScaling, FourierFeatures, LearnedFeatures
from stylegan2_msp.networks.generator import GeneratorBase
from stylegan2_msp.networks.layers import FullyConnectedLayer
from stylegan2_msp.networks.mapping import MappingBase

POINT_DIM = 2
_POINT_EMBEDDINGS = ("linear", "split", "learned", "film")
_LEARNED = 16  # learned features of u


class PointLabels(nn.Module):
    """What is concatenated for a label: 'linear' the label itself, otherwise a scaled one-hot and features of u.

    Those are 'split' Fourier features, 'learned' ones, or 'film' none: there u scales the layers.
    """

    def __init__(self, embedding: str, c_dim: int, u_dim: int = 1) -> None:
        super().__init__()
        if embedding not in _POINT_EMBEDDINGS:
            raise ValueError(f"embedding must be one of {', '.join(_POINT_EMBEDDINGS)} for points, got {embedding!r}")
        if c_dim and not 1 <= u_dim <= c_dim:
            raise ValueError(f"u_dim must lie in [1, c_dim = {c_dim}], got {u_dim}")
        self.apart = embedding != "linear" and c_dim > 0
        self.num_classes = c_dim - u_dim
        self.fourier = FourierFeatures(u_dim=u_dim) if embedding == "split" and c_dim else None
        self.learned = LearnedFeatures(_LEARNED, u_dim) if embedding == "learned" and c_dim else None
        of_u = sum(part.out_features for part in (self.fourier, self.learned) if part is not None)
        self.out_features = self.num_classes + of_u if self.apart else c_dim

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        """[N, c_dim] -> [N, out_features]."""
        c = c.to(torch.float32)
        if not self.apart:
            return c
        parts = [c[:, : self.num_classes] * math.sqrt(max(self.num_classes, 1))]
        parts += [part(c[:, self.num_classes :]) for part in (self.fourier, self.learned) if part is not None]
        return torch.cat(parts, dim=1)


class PointMapping(MappingBase):
    """The lower layers of the point generator: z, with the label concatenated, to w.

    Args beyond those of `MappingBase`: see `PointGenerator`.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        hidden: int,
        num_layers: int,
        embedding: str = "split",
        u_dim: int = 1,
        activation: str = "lrelu",
        lr_multiplier: float = 1,
        w_avg_beta: float | None = 0.995,
        truncation: str = "conditional",
        truncation_samples: int = 1024,
    ) -> None:
        super().__init__(z_dim, c_dim, w_dim, 1, w_avg_beta, truncation, truncation_samples)
        self.embed = PointLabels(embedding, c_dim, u_dim)
        sizes = [z_dim + self.embed.out_features, *[hidden] * (num_layers - 1), w_dim]
        self.layers = _layers(sizes, activation, lr_multiplier)
        self.film = FeatureScaling(sizes[:-1], u_dim) if c_dim and embedding == "film" else None

    def to_w(self, z: torch.Tensor | None, c: torch.Tensor | None) -> torch.Tensor:
        """z [N, z_dim] and c [N, c_dim] -> w [N, w_dim]."""
        parts = [z.to(torch.float32)] if z is not None else []
        if c is not None:
            parts.append(self.embed(c))
        return _through(self.layers, self.film, torch.cat(parts, dim=1), c)


class PointSynthesis(nn.Module):
    """The upper layers of the point generator: w to a point."""

    num_ws = 1

    def __init__(self, w_dim: int, hidden: int, activation: str = "lrelu") -> None:
        super().__init__()
        self.w_dim = w_dim
        self.hidden = FullyConnectedLayer(w_dim, hidden, activation=activation)
        self.out = FullyConnectedLayer(hidden, POINT_DIM)

    def forward(self, ws: torch.Tensor, **ignored: Any) -> torch.Tensor:
        """ws [N, 1, w_dim] -> points, float32 [N, 2]; noise and precision arguments mean nothing here."""
        if ws.ndim != 3 or tuple(ws.shape[1:]) != (1, self.w_dim):
            raise ValueError(f"ws must have shape [N, 1, {self.w_dim}], got {tuple(ws.shape)}")
        return self.out(self.hidden(ws[:, 0]))


class PointGenerator(GeneratorBase):
    """Fully connected generator of 2-D points (Le Coz 2023, section 3: 5 layers, latent of 8, label concatenated).

    The last two layers are the synthesis, those before them the mapping, so that truncation and styles work as for
    images.

    Args:
        z_dim: size of z.
        c_dim: size of c, 0 for none.
        w_dim: size of w.
        hidden: size of the hidden layers.
        num_layers: all fully connected layers, at least 3.
        mapping_kwargs: embedding (see `PointLabels`), u_dim (how many of the label's last numbers are the uncertainty),
            activation, lr_multiplier, w_avg_beta, truncation, truncation_samples.
    """

    def __init__(
        self,
        z_dim: int = 8,
        c_dim: int = 3,
        w_dim: int = 128,
        hidden: int = 128,
        num_layers: int = 5,
        mapping_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.init_kwargs: dict[str, Any] = copy.deepcopy(
            {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        )
        if num_layers < 3:
            raise ValueError(f"num_layers must be at least 3, got {num_layers}")
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, 1
        self.mapping = PointMapping(z_dim, c_dim, w_dim, hidden, num_layers - 2, **(mapping_kwargs or {}))
        self.synthesis = PointSynthesis(w_dim, hidden)


class PointDiscriminator(nn.Module):
    """Fully connected discriminator of 2-D points with the label concatenated (Le Coz 2023, section 3).

    Args:
        c_dim: size of c, 0 for none.
        hidden: size of the hidden layers.
        num_layers: all fully connected layers, at least 2.
        mapping_kwargs: embedding and u_dim, as in `PointGenerator`.
    """

    def __init__(
        self,
        c_dim: int = 3,
        hidden: int = 128,
        num_layers: int = 5,
        mapping_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.init_kwargs: dict[str, Any] = copy.deepcopy(
            {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        )
        if num_layers < 2:
            raise ValueError(f"num_layers must be at least 2, got {num_layers}")
        self.c_dim = c_dim
        given: dict[str, Any] = {"embedding": "split", "u_dim": 1, **(mapping_kwargs or {})}
        self.embed = PointLabels(c_dim=c_dim, **given)
        sizes = [POINT_DIM + self.embed.out_features, *[hidden] * (num_layers - 1)]
        self.layers = _layers(sizes, "lrelu", 1)
        self.film = FeatureScaling(sizes[:-1], given["u_dim"]) if c_dim and given["embedding"] == "film" else None
        self.out = FullyConnectedLayer(hidden, 1)

    def forward(self, img: torch.Tensor, c: torch.Tensor | None, **ignored: Any) -> torch.Tensor:
        """Points [N, 2] and labels [N, c_dim] -> logits, float32 [N, 1].

        Raises:
            ValueError: points or labels have another shape.
        """
        if img.ndim != 2 or img.shape[1] != POINT_DIM:
            raise ValueError(f"points must have shape [N, {POINT_DIM}], got {tuple(img.shape)}")
        if self.c_dim == 0:
            return self.out(self.layers(img))
        if c is None or c.ndim != 2 or c.shape[1] != self.c_dim:
            raise ValueError(f"c must have shape [N, {self.c_dim}], got {None if c is None else tuple(c.shape)}")
        return self.out(_through(self.layers, self.film, torch.cat([img, self.embed(c)], dim=1), c))


def _through(
    layers: nn.Sequential, film: FeatureScaling | None, x: torch.Tensor, c: torch.Tensor | None
) -> torch.Tensor:
    for i, layer in enumerate(layers):
        if film is not None and c is not None:
            x = film(i, x, c)
        x = layer(x)
    return x


def _layers(sizes: list[int], activation: str, lr_multiplier: float) -> nn.Sequential:
    return nn.Sequential(
        *(FullyConnectedLayer(a, b, activation=activation, lr_multiplier=lr_multiplier) for a, b in pairwise(sizes))
    )
