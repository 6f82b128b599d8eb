"""Latent and label to intermediate latents w, and truncation towards the centre that the label has in W."""

from __future__ import annotations

import torch
from torch import nn

from stylegan2_msp.networks.embedding import FeatureScaling, make_embedding
from stylegan2_msp.networks.layers import FullyConnectedLayer, normalize_2nd_moment
from stylegan2_msp.networks.truncation import ConditionalMean

TRUNCATIONS = ("conditional", "global")


class MappingBase(nn.Module):
    """Everything of a mapping network but its layers: w_avg, truncation and the repetition over layers.

    Args:
        z_dim: size of the latent; 0 leaves it out.
        c_dim: size of the label; 0 leaves it out.
        w_dim: size of w.
        num_ws: how often w is repeated; None gives it once, without truncation.
        w_avg_beta: decay of the running mean of w in training; None keeps none.
        truncation: 'conditional' pulls towards the mean of mapping(z, c) over z, for each label by itself;
            'global' towards the running mean over everything, as the family does.
        truncation_samples: how many fixed z that conditional mean is taken over.
    """

    w_avg: torch.Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        w_avg_beta: float | None,
        truncation: str,
        truncation_samples: int,
    ) -> None:
        super().__init__()
        if z_dim + c_dim == 0:
            raise ValueError("a mapping network needs z_dim or c_dim above 0")
        if truncation not in TRUNCATIONS:
            raise ValueError(f"truncation must be one of {', '.join(TRUNCATIONS)}, got {truncation!r}")
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.w_avg_beta, self.truncation = w_avg_beta, truncation
        self.centre = ConditionalMean(z_dim, truncation_samples)
        if None not in (num_ws, w_avg_beta):
            self.register_buffer("w_avg", torch.zeros([w_dim]))

    def to_w(self, z: torch.Tensor | None, c: torch.Tensor | None) -> torch.Tensor:
        """The layers themselves: z [N, z_dim] and c [N, c_dim] -> w [N, w_dim]."""
        raise NotImplementedError

    def forward(
        self,
        z: torch.Tensor | None,
        c: torch.Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        skip_w_avg_update: bool = False,
    ) -> torch.Tensor:
        """Maps z [N, z_dim] and c [N, c_dim] to ws [N, num_ws, w_dim] (w [N, w_dim] without num_ws).

        Args:
            truncation_psi: 1 leaves w alone, 0 gives the centre, between them w moves on a straight line.
            truncation_cutoff: truncate only the first so many of the num_ws; None truncates all.
            skip_w_avg_update: leave the running mean alone in training.

        Raises:
            ValueError: z or c has the wrong shape.
        """
        z, c = _checked(z, self.z_dim, "z"), _checked(c, self.c_dim, "c")
        w = self.to_w(z, c)
        if self.training and not skip_w_avg_update and "w_avg" in self._buffers:
            self.w_avg.copy_(w.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta or 0.0))
        if self.num_ws is None:
            return w
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi == 1:
            return ws
        towards = self.centre_of(c, w)[:, None].lerp(ws, truncation_psi)
        if truncation_cutoff is None or truncation_cutoff >= self.num_ws:
            return towards
        return torch.cat([towards[:, :truncation_cutoff], ws[:, truncation_cutoff:]], dim=1)

    def centre_of(self, c: torch.Tensor | None, w: torch.Tensor) -> torch.Tensor:
        """What truncation pulls towards, [N or 1, w_dim]."""
        if self.truncation == "conditional" and self.z_dim:
            return self.centre.of(self, c, w.device)
        if "w_avg" not in self._buffers:
            raise ValueError("global truncation needs w_avg; give w_avg_beta to the mapping network")
        return self.w_avg[None]


class MappingNetwork(MappingBase):
    """The StyleGAN2 mapping network: normalised z and embedded c through fully connected layers.

    Args beyond those of `MappingBase`:
        num_layers: fully connected layers fc0, fc1, ...
        embed_features: size of the embedded label; None takes w_dim.
        layer_features: size between the layers; None takes w_dim.
        activation: of every layer.
        lr_multiplier: of every layer (not of the embedding).
        embedding: a name in `EMBEDDINGS`; 'film' also scales and shifts what each layer takes.
        u_dim: how many of the label's last numbers are the uncertainty.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
        embedding: str = "split",
        u_dim: int = 1,
        truncation: str = "conditional",
        truncation_samples: int = 1024,
    ) -> None:
        super().__init__(z_dim, c_dim, w_dim, num_ws, w_avg_beta, truncation, truncation_samples)
        if num_layers < (1 if z_dim else 0):
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.num_layers = num_layers
        embedded = (embed_features or w_dim) if c_dim else 0
        if c_dim:
            self.embed = make_embedding(embedding, c_dim, embedded, u_dim)
        sizes = [z_dim + embedded, *[layer_features or w_dim] * (num_layers - 1), w_dim]
        for i in range(num_layers):
            layer = FullyConnectedLayer(sizes[i], sizes[i + 1], activation=activation, lr_multiplier=lr_multiplier)
            self.add_module(f"fc{i}", layer)
        self.film = FeatureScaling(sizes[:-1], u_dim) if c_dim and embedding == "film" else None

    def to_w(self, z: torch.Tensor | None, c: torch.Tensor | None) -> torch.Tensor:
        """z [N, z_dim] and c [N, c_dim] -> w [N, w_dim]."""
        parts = []
        if z is not None:
            parts.append(normalize_2nd_moment(z.to(torch.float32)))
        if c is not None:
            parts.append(self.embed(c))
        x = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        for i in range(self.num_layers):
            if self.film is not None and c is not None:
                x = self.film(i, x, c)
            x = self.get_submodule(f"fc{i}")(x)
        return x


def _checked(x: torch.Tensor | None, size: int, name: str) -> torch.Tensor | None:
    """None if the network takes no such input, otherwise `x` after a look at its shape."""
    if size == 0:
        return None
    if x is None or x.ndim != 2 or x.shape[1] != size:
        raise ValueError(f"{name} must have shape [N, {size}], got {None if x is None else tuple(x.shape)}")
    return x
