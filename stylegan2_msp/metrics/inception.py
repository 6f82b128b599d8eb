"""Features of the Inception network that FID is usually computed on, where its weights are at hand."""

from __future__ import annotations

from typing import Any

import torch

from stylegan2_msp.errors import UserError
from stylegan2_msp.metrics.observing import Features


def inception_features(device: torch.device) -> Features:
    """Maps images [N, C, H, W] in [-1, 1] to 2048 pooled features of Inception v3 (the weights of Heusel et al. 2017).

    torchmetrics wraps the network, torch-fidelity brings it and fetches its weights on first use.

    Raises:
        UserError: torch-fidelity or the weights cannot be had.
    """
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        net: Any = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"]).to(device)
    except Exception as error:  # torch-fidelity is missing, or its download fails in one of many ways
        first = " ".join(str(error).split())[:120]
        raise UserError(
            f"--features inception: needs torch-fidelity and its weights, which cannot be had here ({first}); "
            "pip install torch-fidelity with a network, or leave --features at 'second'"
        ) from None

    def features(x: torch.Tensor) -> torch.Tensor:
        pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return net(pixels.expand(-1, 3, -1, -1)).flatten(1).float()

    return features
