"""How the label c = [class one-hot, uncertainty] enters a network; add a member by registering a class.

The uncertainty is the label's last ``u_dim`` numbers, each in [0, 1]: one, or the K of a softmax vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from stylegan2_msp.networks.layers import FullyConnectedLayer, normalize_2nd_moment

# Octaves of u: neighbours 0.05 apart differ by most of a half-wave in the last, nothing turns faster than data shows.
_OCTAVES = 5
# Size of the first learned layer's weights and biases. All that follows it is linear piece by piece, without biases at
# first, and normalised: so features begin as they would without it, but the layer's kinks move more slowly.
_STEEPNESS = 8.0

EMBEDDINGS: dict[str, Callable[[int, int, int], nn.Module]] = {}


def register_embedding(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Makes a class `(c_dim, features, u_dim)` available as mapping_kwargs['embedding'] = `name`.

    Its forward maps labels [N, c_dim] to [N, features] with unit second moment.
    """

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        EMBEDDINGS[name] = cls
        return cls

    return register


def make_embedding(name: str, c_dim: int, features: int, u_dim: int = 1) -> nn.Module:
    """The embedding called `name`.

    Raises:
        ValueError: no embedding has that name, or the label is shorter than its uncertainty.
    """
    if name not in EMBEDDINGS:
        raise ValueError(f"embedding must be one of {', '.join(EMBEDDINGS)}, got {name!r}")
    if not 1 <= u_dim <= c_dim:
        raise ValueError(f"u_dim must lie in [1, c_dim = {c_dim}], got {u_dim}")
    return EMBEDDINGS[name](c_dim, features, u_dim)


class FourierFeatures(nn.Module):
    """sqrt(2) [cos(pi 2^k u), sin(pi 2^k u)] for k = 0, 1, ...: unit second moment for every u (Tancik 2020, eq. 5).

    Args:
        octaves: how many frequencies.
        u_dim: numbers per label, each with features of its own.
    """

    frequencies: torch.Tensor

    def __init__(self, octaves: int = _OCTAVES, u_dim: int = 1) -> None:
        super().__init__()
        self.out_features = 2 * octaves * u_dim
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(octaves))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """u [N] or [N, u_dim] in [0, 1] -> [N, 2 octaves u_dim], u by u."""
        phase = u.to(torch.float32).reshape(u.shape[0], -1, 1) * self.frequencies
        return torch.cat([phase.cos(), phase.sin()], dim=2).flatten(1) * math.sqrt(2)


class LearnedFeatures(nn.Module):
    """A small network of u, normalised: what CcGAN's improved label input (ILI; Ding et al. 2023, section 3) learns.

    There a network is trained on (image, label) pairs before the GAN, so that its features tell the label; here its
    layers learn with G and D. Linear pieces of the first layer begin spread over [0, 1].

    Args:
        features: size of the result.
        u_dim: numbers per label.
        hidden: size of the two hidden layers.
    """

    def __init__(self, features: int, u_dim: int = 1, hidden: int = 64) -> None:
        super().__init__()
        self.out_features = features
        first = FullyConnectedLayer(u_dim, hidden, activation="lrelu")
        assert first.bias is not None
        with torch.no_grad():
            first.weight.mul_(_STEEPNESS)
            first.bias.copy_(-(first.weight * torch.rand(hidden, u_dim)).sum(dim=1) / math.sqrt(u_dim))
        second = FullyConnectedLayer(hidden, hidden, activation="lrelu")
        self.layers = nn.Sequential(first, second, FullyConnectedLayer(hidden, features))

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """u [N] or [N, u_dim] in [0, 1] -> [N, features] with unit second moment."""
        return normalize_2nd_moment(self.layers(u.to(torch.float32).reshape(u.shape[0], -1)))


class FeatureScaling(nn.Module):
    """x -> (1 + gamma_i(u)) x + beta_i(u) before layer i, gamma and beta linear in Fourier features of u.

    FiLM (Perez et al. 2018, equations 1 and 2), gamma around one as in their section 4.1.

    Args:
        sizes: features that each layer takes.
        u_dim: numbers per label.
    """

    def __init__(self, sizes: Sequence[int], u_dim: int = 1) -> None:
        super().__init__()
        self.u_dim = u_dim
        self.fourier = FourierFeatures(u_dim=u_dim)
        self.layers = nn.ModuleList(FullyConnectedLayer(self.fourier.out_features, 2 * size) for size in sizes)

    def forward(self, i: int, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Features x [N, sizes[i]] and labels [N, c_dim] -> [N, sizes[i]]."""
        gamma, beta = self.layers[i](self.fourier(c[:, -self.u_dim :])).chunk(2, dim=1)
        return (1 + gamma) * x + beta


@register_embedding("linear")
class LinearEmbedding(FullyConnectedLayer):
    """One linear layer on the whole label, normalised: what the StyleGAN2 family does."""

    def __init__(self, c_dim: int, features: int, u_dim: int = 1) -> None:
        super().__init__(c_dim, features)

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        """[N, c_dim] -> [N, features]."""
        return normalize_2nd_moment(super().forward(c.to(torch.float32)))


@register_embedding("split")
class SplitEmbedding(nn.Module):
    """Class and uncertainty embedded apart and each normalised, so that neither can drown the other.

    The class one-hot passes one linear layer; u passes Fourier features and one linear layer. Each gets half of the
    features. With c_dim = u_dim there is only u.
    """

    by_u: nn.Module

    def __init__(self, c_dim: int, features: int, u_dim: int = 1) -> None:
        super().__init__()
        if features < 2:
            raise ValueError(f"an embedding in two parts needs at least 2 features, got {features}")
        self.num_classes = c_dim - u_dim
        class_features = features // 2 if self.num_classes else 0
        self.by_class = FullyConnectedLayer(self.num_classes, class_features) if self.num_classes else None
        self._make_layers_of_u(features - class_features, u_dim)

    def _make_layers_of_u(self, features: int, u_dim: int) -> None:
        self.fourier = FourierFeatures(u_dim=u_dim)
        self.by_u = FullyConnectedLayer(self.fourier.out_features, features)

    def of_u(self, u: torch.Tensor) -> torch.Tensor:
        """u [N, u_dim] -> its part of the features, with unit second moment."""
        return normalize_2nd_moment(self.by_u(self.fourier(u)))

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        """[N, c_dim] -> [N, features]: the class's part, then that of u."""
        c = c.to(torch.float32)
        by_u = self.of_u(c[:, self.num_classes :])
        if self.by_class is None:
            return by_u
        return torch.cat([normalize_2nd_moment(self.by_class(c[:, : self.num_classes])), by_u], dim=1)


@register_embedding("learned")
class LearnedEmbedding(SplitEmbedding):
    """As `SplitEmbedding`, but u passes `LearnedFeatures`."""

    def _make_layers_of_u(self, features: int, u_dim: int) -> None:
        self.by_u = LearnedFeatures(features, u_dim)

    def of_u(self, u: torch.Tensor) -> torch.Tensor:
        """u [N, u_dim] -> its part of the features, with unit second moment."""
        return self.by_u(u)


@register_embedding("film")
class FilmEmbedding(nn.Module):
    """The class alone, one linear layer, normalised; u enters by the `FeatureScaling` that the network then has."""

    def __init__(self, c_dim: int, features: int, u_dim: int = 1) -> None:
        super().__init__()
        if c_dim == u_dim:
            raise ValueError("the film embedding needs a class beside the uncertainty")
        self.num_classes = c_dim - u_dim
        self.by_class = FullyConnectedLayer(self.num_classes, features)

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        """[N, c_dim] -> [N, features]."""
        return normalize_2nd_moment(self.by_class(c[:, : self.num_classes].to(torch.float32)))
