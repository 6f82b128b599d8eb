"""Measures that one row of probabilities determines: MSP, entropy, margin, true class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from stylegan2_msp.uncertainty.measure import Measure, entropy, of_class


def msp(probs: torch.Tensor) -> torch.Tensor:
    """Maximum softmax probability max_k p_k (Le Coz 2023, section 2): [N, K] -> [N], each in [1 / K, 1].

    The floating point maximum of a softmax may fall below 1 / K or above 1 by a rounding error; it is kept inside.
    """
    return probs.amax(dim=1).clamp(1.0 / probs.shape[1], 1.0)


@dataclass(frozen=True)
class Msp(Measure):
    """Maximum softmax probability max_k p_k in [1/K, 1], high when sure (Hendrycks and Gimpel 2017; Le Coz 2023)."""

    name = "msp"
    title = "MSP"
    probability = True

    def low(self, num_classes: int) -> float:
        """1 / K."""
        return 1 / num_classes

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """max_k p_k."""
        return msp(logits.softmax(dim=1))


@dataclass(frozen=True)
class Entropy(Measure):
    """Normalised entropy -sum_k p_k log p_k / log K in [0, 1], low when sure (Shannon 1948)."""

    name = "entropy"
    title = "entropy"
    certain = "low"

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """-sum_k p_k log p_k / log K."""
        return (entropy(logits) / math.log(logits.shape[-1])).clamp(0, 1)


@dataclass(frozen=True)
class Margin(Measure):
    """Margin p_(1) - p_(2) between the two largest probabilities in [0, 1], high when sure (Scheffer et al. 2001)."""

    name = "margin"
    title = "margin"

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """p_(1) - p_(2)."""
        first, second = logits.softmax(dim=1).topk(2, dim=1).values.unbind(dim=1)
        return (first - second).clamp(0, 1)


@dataclass(frozen=True)
class TrueClass(Measure):
    """Probability p_y of the image's own class in [0, 1], high when sure (Corbiere et al. 2019, equation 2)."""

    name = "true_class"
    title = "true class probability"
    of_class = True
    probability = True

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """p_y."""
        return of_class(logits.softmax(dim=1), classes).clamp(0, 1)
