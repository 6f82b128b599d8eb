"""The built-in classifiers: a small CNN for images of any power-of-two size and a small MLP for 2-D points."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from stylegan2_msp.classifiers.second import ResidualCNN
from stylegan2_msp.classifiers.strided import StridedCNN
from stylegan2_msp.errors import UserError

_MAX_WIDTH = 65536


class SmallCNN(nn.Module):
    """3x3 convolutions with pooling down to 8x8 or less, then one hidden layer: [N, C, size, size] -> logits [N, K].

    With its default widths it is the usual two-layer MNIST network (32 and 64 channels, 128 hidden units). ``dropout``
    is the percentage of hidden units dropped.
    """

    def __init__(
        self, size: int, channels: int, num_classes: int, width: int = 32, hidden: int = 128, dropout: int = 0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side, fan_in = size, channels
        for stage in range(max(2, int(math.log2(size)) - 3)):
            fan_out = width * min(2**stage, 4)
            layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1))
            if side > 4:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            layers.append(nn.ReLU())  # after the pooling: the same values from a quarter of the work
            fan_in = fan_out
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(fan_in * side * side, hidden), nn.ReLU(), *_dropout(dropout), nn.Linear(hidden, num_classes)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] of images [N, C, size, size]."""
        x = self.features(x.contiguous(memory_format=torch.channels_last))
        return self.head(x.flatten(1))


class SmallMLP(nn.Module):
    """Smooth fully connected network: [N, channels] -> logits [N, K]; ``dropout`` as in `SmallCNN`."""

    def __init__(
        self, channels: int, num_classes: int, hidden: int = 64, num_hidden: int = 2, dropout: int = 0
    ) -> None:
        super().__init__()
        widths = [channels] + [hidden] * num_hidden
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.SiLU(), *_dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] of points [N, channels]."""
        return self.layers(x)


def _dropout(percent: int) -> list[nn.Module]:
    return [nn.Dropout(percent / 100)] if percent else []


def build_builtin(arch: str, size: int, channels: int, num_classes: int, args: dict[str, Any]) -> nn.Module:
    """The untrained network of a name (a key of `known`), float32; ``args``, its arguments, may come from a file."""
    known = {
        "cnn": {"width", "hidden", "dropout"},
        "mlp": {"hidden", "num_hidden", "dropout"},
        "residual": {"width", "hidden"},
        "strided": {"width", "hidden"},
    }[arch]
    for name, value in args.items():
        most = 99 if name == "dropout" else _MAX_WIDTH
        if name not in known or not isinstance(value, int) or not 1 <= value <= most:
            raise UserError(f"classifier: {arch!r} has no argument {name} = {value!r}")
    if arch == "mlp":
        return SmallMLP(channels, num_classes, **args).float()
    if size < 4 or size & (size - 1):
        raise UserError(f"classifier: the built-in CNN wants a power-of-two size of 4 or more, found {size}")
    networks: dict[str, Callable[..., nn.Module]] = {"cnn": SmallCNN, "residual": ResidualCNN, "strided": StridedCNN}
    return networks[arch](size, channels, num_classes, **args).float()
