"""How the label vector c = [class one-hot, uncertainty] enters a network; add a member by registering a class."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from stylegan2_msp.networks.layers import FullyConnectedLayer, normalize_2nd_moment

# Octaves of u: neighbours 0.05 apart differ by most of a half-wave in the last, nothing turns faster than data shows.
_OCTAVES = 5

EMBEDDINGS: dict[str, Callable[[int, int], nn.Module]] = {}


def register_embedding(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Makes a class `(c_dim, features)` available as mapping_kwargs['embedding'] = `name`.

    Its forward maps labels [N, c_dim] to [N, features] with unit second moment.
    """

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        EMBEDDINGS[name] = cls
        return cls

    return register


def make_embedding(name: str, c_dim: int, features: int) -> nn.Module:
    """The embedding called `name`.

    Raises:
        ValueError: no embedding has that name.
    """
    if name not in EMBEDDINGS:
        raise ValueError(f"embedding must be one of {', '.join(EMBEDDINGS)}, got {name!r}")
    return EMBEDDINGS[name](c_dim, features)


class FourierFeatures(nn.Module):
    """sqrt(2) [cos(pi 2^k u), sin(pi 2^k u)] for k = 0, 1, ...: unit second moment for every u (Tancik 2020, eq. 5)."""

    frequencies: torch.Tensor

    def __init__(self, octaves: int = _OCTAVES) -> None:
        super().__init__()
        self.out_features = 2 * octaves
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(octaves))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """u [N] in [0, 1] -> [N, 2 octaves]."""
        phase = u.to(torch.float32)[:, None] * self.frequencies
        return torch.cat([phase.cos(), phase.sin()], dim=1) * math.sqrt(2)


@register_embedding("linear")
class LinearEmbedding(FullyConnectedLayer):
    """One linear layer on the whole label, normalised: what the StyleGAN2 family does."""

    def __init__(self, c_dim: int, features: int) -> None:
        super().__init__(c_dim, features)

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        """[N, c_dim] -> [N, features]."""
        return normalize_2nd_moment(super().forward(c.to(torch.float32)))


@register_embedding("split")
class SplitEmbedding(nn.Module):
    """Class and uncertainty embedded apart and each normalised, so that neither can drown the other.

    The class one-hot passes one linear layer; u passes Fourier features and one linear layer. Each gets half of the
    features. With c_dim = 1 there is only u.
    """

    def __init__(self, c_dim: int, features: int) -> None:
        super().__init__()
        if features < 2:
            raise ValueError(f"a split embedding needs at least 2 features, got {features}")
        self.num_classes = c_dim - 1
        class_features = features // 2 if self.num_classes else 0
        self.by_class = FullyConnectedLayer(self.num_classes, class_features) if self.num_classes else None
        self.fourier = FourierFeatures()
        self.by_u = FullyConnectedLayer(self.fourier.out_features, features - class_features)

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        """[N, num_classes + 1] -> [N, features]: the class's part, then that of u."""
        c = c.to(torch.float32)
        by_u = normalize_2nd_moment(self.by_u(self.fourier(c[:, -1])))
        if self.by_class is None:
            return by_u
        return torch.cat([normalize_2nd_moment(self.by_class(c[:, :-1])), by_u], dim=1)
