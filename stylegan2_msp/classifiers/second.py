"""The second classifier's architecture: a small residual network, unlike `builtin.SmallCNN` in every layer."""

from __future__ import annotations

import math

import torch
from torch import nn


class _Block(nn.Module):
    """x + conv(silu(conv(silu(x)))), which begins as the identity: residual blocks need no normalisation so."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape as x."""
        return x + self.second(nn.functional.silu(self.first(nn.functional.silu(x))))


class ResidualCNN(nn.Module):
    """Strided convolutions and residual blocks down to 8x8, then the mean over pixels: [N, C, S, S] -> logits [N, K].

    Smooth activations and pooling by means, where the first classifier has ReLU, maximum pooling and a dense layer on
    the pixels. What enters ``head`` are the image's features, [N, hidden].
    """

    def __init__(self, size: int, channels: int, num_classes: int, width: int = 16, hidden: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        fan_in = channels
        for stage in range(max(2, int(math.log2(size)) - 3)):
            fan_out = width * min(2**stage, 4)
            stride = 2 if size >> stage > 8 else 1
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1), _Block(fan_out)]
            fan_in = fan_out
        self.body = nn.Sequential(*layers, nn.SiLU())
        self.dense = nn.Sequential(nn.Linear(fan_in * 4, hidden), nn.SiLU())
        self.head = nn.Linear(hidden, num_classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] of images [N, C, size, size]."""
        x = self.body(x.contiguous(memory_format=torch.channels_last))
        quarters = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(self.dense(quarters))
