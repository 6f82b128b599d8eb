"""The second classifier's network: begins as a network without its blocks, learns, and travels as bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.classifiers.second import ResidualCNN
from stylegan2_msp.classifiers.train import train_classifier


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3), (32, 1), (128, 3)])
def test_logits_of_every_size_and_blocks_that_begin_as_the_identity(size, channels):
    net = ResidualCNN(size, channels, 7, width=4, hidden=8)
    x = torch.rand(2, channels, size, size)
    assert net(x).shape == (2, 7)
    blocks = [m for m in net.body if type(m).__name__ == "_Block"]
    y = torch.rand(1, blocks[0].first.in_channels, 8, 8)
    torch.testing.assert_close(blocks[0](y), y + blocks[0].second.bias[None, :, None, None].expand_as(y))


@pytest.mark.slow
def test_it_learns_digits_by_the_same_tool_and_travels():
    digits = load_digits()
    data = torch.from_numpy(np.kron(digits.images * 15.9, np.ones((1, 2, 2))).astype(np.uint8)[:, None])
    found = train_classifier(
        data, torch.from_numpy(digits.target), 10, seed=1, arch="residual", arch_args={"width": 8, "hidden": 32}
    )
    assert found.spec.report["val_accuracy"] > 0.93
    again = FrozenClassifier.from_bytes(found.to_bytes())
    x = data[:20].float() / 127.5 - 1
    assert torch.equal(found(x), again(x))
