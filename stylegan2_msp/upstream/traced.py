"""A generator as one function of (z, class, uncertainty, noise), ready to be traced, and what it needs for that."""

from __future__ import annotations

import torch
from torch import nn

from stylegan2_msp.generation import ConditionalGenerator
from stylegan2_msp.networks.layers import SynthesisLayer

NOISES = ("const", "none", "input")


class PlainGenerator(nn.Module):
    """Images from plain inputs, float32 throughout, without truncation.

    Args:
        generator: what is wrapped.
        noise: 'const' (the stored maps), 'none', or 'input' (a further input).

    Attributes:
        inputs: names of the inputs, in order.
        noise_size: numbers of noise per image, the layers' maps one after another.
    """

    def __init__(self, generator: ConditionalGenerator, noise: str = "const") -> None:
        super().__init__()
        if noise not in NOISES:
            raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")
        self.G, self.noise = generator.G, noise
        self.num_classes, self.takes_u = generator.num_classes, generator.takes_u
        self.u_size = generator.measure.size(self.num_classes) if self.takes_u else 0
        self.images = generator.kind == "images"
        layers = [m for m in self.G.modules() if isinstance(m, SynthesisLayer) and m.use_noise]
        self.noise_size = sum(layer.resolution**2 for layer in layers)
        self.inputs = ["z"]
        if generator.takes_class:
            self.inputs.append("class")
        if self.takes_u:
            self.inputs.append("msp" if generator.measure.name == "msp" else "uncertainty")
        if noise == "input":
            self.inputs.append("noise")

    def forward(self, z: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        """Images, about [-1, 1], or points.

        Args:
            z: float32 [N, z_dim], standard normal.
            rest: as ``inputs`` says: class, int64 [N]; msp, float32 [N] in [1 / K, 1] (or another measure's level; a
                softmax vector [N, K]); noise, float32 [N, noise_size], standard normal.
        """
        c = None
        if "class" in self.inputs:
            c = nn.functional.one_hot(rest[0], self.num_classes).to(torch.float32)
        if self.takes_u and c is not None:
            c = torch.cat([c, rest[1].to(torch.float32).reshape(-1, self.u_size)], dim=1)
        ws = self.G.mapping(z, c)
        if not self.images:
            return self.G.synthesis(ws)
        rng = GivenNoise(rest[-1]) if self.noise == "input" else None
        mode = "random" if rng is not None else self.noise
        return self.G.synthesis(ws, noise_mode=mode, force_fp32=True, fused_modconv=False, rng=rng)

    def example(self, n: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Inputs for n items, random but for their sizes."""
        rng = torch.Generator("cpu").manual_seed(seed)
        given = [torch.randn([n, self.G.z_dim], generator=rng)]
        if "class" in self.inputs:
            given.append(torch.randint(self.num_classes, [n], generator=rng))
        if self.takes_u:
            u = torch.rand([n, self.u_size], generator=rng) + 1e-3
            given.append(u / u.sum(dim=1, keepdim=True) if self.u_size > 1 else u[:, 0])
        if self.noise == "input":
            given.append(torch.randn([n, self.noise_size], generator=rng))
        return tuple(given)


class GivenNoise:
    """Hands out the noise that was given, map by map, where layers would draw it."""

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise, self.used = noise, 0

    def randn(self, n: int, *shape: int) -> torch.Tensor:
        """The next map, [n, *shape]."""
        size = 1
        for length in shape:
            size *= length
        self.used += size
        return self.noise[:, self.used - size : self.used].reshape(-1, *shape)
