"""The witness's architecture: strided convolutions, unlike those of the other built-in classifiers."""

from __future__ import annotations

import math

import torch
from torch import nn


class StridedCNN(nn.Module):
    """5x5 convolutions of stride 2 down to 8x8, then a dense layer on the pixels: [N, C, S, S] -> logits [N, K].

    No pooling, where `builtin.SmallCNN` takes maxima and `second.ResidualCNN` means, and GELU for their activations.
    """

    def __init__(self, size: int, channels: int, num_classes: int, width: int = 24, hidden: int = 96) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side, fan_in = size, channels
        for stage in range(max(2, int(math.log2(size)) - 3)):
            fan_out = width * min(2**stage, 4)
            stride = 2 if side > 8 else 1
            layers += [nn.Conv2d(fan_in, fan_out, 5, stride=stride, padding=2), nn.GELU()]
            side, fan_in = side // stride, fan_out
        self.features = nn.Sequential(*layers, nn.Conv2d(fan_in, 64, 3, padding=1), nn.GELU())
        self.head = nn.Sequential(nn.Linear(64 * side * side, hidden), nn.GELU(), nn.Linear(hidden, num_classes))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] of images [N, C, size, size]."""
        x = self.features(x.contiguous(memory_format=torch.channels_last))
        return self.head(x.flatten(1))
