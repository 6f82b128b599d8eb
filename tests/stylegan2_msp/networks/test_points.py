"""The fully connected networks by their layers, written out."""

from __future__ import annotations

import torch
from torch import nn

from stylegan2_msp.networks import PointDiscriminator


def test_a_point_discriminator_without_labels_looks_at_the_point() -> None:
    """The layers by hand."""
    torch.manual_seed(0)
    D = PointDiscriminator(0, hidden=6, num_layers=3)
    points = torch.randn(5, 2)
    x = points
    for layer in D.layers:
        x = nn.functional.leaky_relu(x @ layer.weight.T / x.shape[1] ** 0.5 + layer.bias, 0.2) * 2**0.5
    torch.testing.assert_close(D(points, None), x @ D.out.weight.T / 6**0.5 + D.out.bias)
