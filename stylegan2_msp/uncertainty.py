"""Measures of a classifier's uncertainty, computed from its class probabilities."""

from __future__ import annotations

import torch


def msp(probs: torch.Tensor) -> torch.Tensor:
    """Maximum softmax probability max_k p_k (Le Coz 2023, section 2): [N, K] -> [N], each in [1 / K, 1].

    The floating point maximum of a softmax may fall below 1 / K or above 1 by a rounding error; it is kept inside.
    """
    return probs.amax(dim=1).clamp(1.0 / probs.shape[1], 1.0)
