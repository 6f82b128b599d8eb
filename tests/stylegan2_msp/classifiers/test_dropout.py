"""Dropout masks in a frozen classifier: fixed, the same for every batch, gone afterwards."""

from __future__ import annotations

import io
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from stylegan2_msp.classifiers import ClassifierSpec, FrozenClassifier
from stylegan2_msp.classifiers.builtin import SmallCNN, SmallMLP
from stylegan2_msp.classifiers.dropout import _mask, dropout_masks, has_dropout
from stylegan2_msp.classifiers.load import DataShape, load_classifier
from stylegan2_msp.errors import UserError
from stylegan2_msp.uncertainty import MutualInformation

MEASURE = {"name": "mutual_information", "lowest": 0.0, "highest": 0.5}


def with_dropout() -> FrozenClassifier:
    torch.manual_seed(0)
    args = {"width": 4, "hidden": 16, "dropout": 50}
    spec = ClassifierSpec("cnn", "images", 3, 1, 8, 1, 8, arch_args=args, uncertainty=MEASURE)
    return FrozenClassifier(spec, SmallCNN(8, 1, 3, **args))


def test_masks_drop_the_share_and_keep_the_mean() -> None:
    net = nn.Sequential(nn.Dropout(0.3)).eval()
    x = torch.ones(2, 100, 100)
    with dropout_masks(net, 0):
        out = net(x)
    assert torch.equal(out[0], out[1])
    torch.testing.assert_close(out.unique(), torch.tensor([0, 1 / 0.7]))
    assert float((out == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(net(x), x)
    with dropout_masks(net, 1):
        assert not torch.equal(net(x), out)
    with dropout_masks(net, 0):
        assert torch.equal(net(x), out)


def test_layers_of_one_size_have_masks_of_their_own() -> None:
    """With one mask twice nothing more would be dropped by the second layer than by the first."""
    net = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)).eval()
    with dropout_masks(net, 3):
        kept = net(torch.ones(1, 100, 100)) != 0
    assert float(kept.float().mean()) == pytest.approx(0.25, abs=0.02)


def test_the_measure_does_not_depend_on_batch_or_time_and_leaves_the_classifier_as_it_was() -> None:
    frozen, x = with_dropout(), torch.rand(6, 1, 8, 8) * 2 - 1
    plain, u = frozen(x), frozen.uncertainty(x)
    torch.testing.assert_close(torch.cat([frozen.uncertainty(row[None]) for row in x]), u, atol=1e-6, rtol=1e-4)
    assert torch.equal(frozen.uncertainty(x), u)
    assert torch.equal(frozen(x), plain)
    assert not any(module._forward_hooks for module in frozen.modules())
    frozen.verify_frozen()
    assert u.min() > 0
    draws = frozen.measured_logits(x)
    assert draws.shape == (20, 6, 3)
    torch.testing.assert_close(MutualInformation(0.0, 0.5)(draws), u)
    pred, level = frozen.answer(x)
    assert torch.equal(pred, plain.argmax(1))
    assert torch.equal(level, u)
    flat = x[:, :, :1, :1].expand(-1, -1, 8, 8)  # looks the same wherever it is
    torch.testing.assert_close(frozen.steady_level(flat, pred), frozen.uncertainty(flat), atol=1e-5, rtol=1e-4)


def test_gradient_reaches_the_image_through_the_masks() -> None:
    x = (torch.rand(2, 1, 8, 8) * 2 - 1).requires_grad_(True)
    with_dropout().uncertainty(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


class Own(nn.Module):
    """A user's network with dropout."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.first, self.last, self.dropout = nn.Linear(2, 32), nn.Linear(32, 3), nn.Dropout(share)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.dropout(torch.relu(self.first(x))))


def exported(share: float, path: str) -> FrozenClassifier:
    torch.manual_seed(0)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Own(share).eval(), (torch.zeros(2, 2),), dynamic_shapes=batch, strict=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with open(path, "wb") as file:
        file.write(buffer.getvalue())
    return load_classifier(path, DataShape("points", 0, 0, 3))


def test_dropout_of_a_users_program_is_found_and_travels(tmp_path) -> None:
    frozen = exported(0.4, str(tmp_path / "own.pt2"))
    torch.manual_seed(0)
    own, x = Own(0.4).eval(), torch.randn(5, 2)
    torch.testing.assert_close(frozen(x), own(x))
    again = FrozenClassifier.from_bytes(frozen.with_measure(MutualInformation()).to_bytes())
    with dropout_masks(own, 7), dropout_masks(again.net, 7):
        torch.testing.assert_close(again(x), own(x))
    torch.testing.assert_close(again(x), own(x))


def test_masks_are_not_seen_by_other_threads() -> None:
    frozen, x = with_dropout(), torch.rand(6, 1, 8, 8) * 2 - 1
    plain, u = frozen(x), frozen.uncertainty(x)
    with ThreadPoolExecutor(1) as other, dropout_masks(frozen.net, 0):
        assert torch.equal(other.submit(frozen, x).result(), plain)
        assert torch.equal(other.submit(frozen.uncertainty, x).result(), u)
        assert not torch.equal(frozen(x), plain)


@pytest.mark.usefixtures("default_float64")
def test_masks_do_not_depend_on_the_default_dtype() -> None:
    frozen, x = with_dropout().float(), torch.rand(6, 1, 8, 8) * 2 - 1
    _mask.cache_clear()
    u = frozen.uncertainty(x)
    torch.set_default_dtype(torch.float32)
    _mask.cache_clear()
    assert torch.equal(frozen.uncertainty(x), u)


def test_a_classifier_without_dropout_is_refused(tmp_path) -> None:
    args = {"hidden": 4, "num_hidden": 1}
    spec = ClassifierSpec("mlp", "points", 2, 0, 0, 2, 0, arch_args=args, uncertainty=MEASURE)
    frozen = FrozenClassifier(spec, SmallMLP(2, 2, **args))
    assert not has_dropout(frozen.net)
    with pytest.raises(UserError, match=r"--uncertainty mutual_information: .* has no dropout .*not Dropout2d"):
        frozen.uncertainty(torch.zeros(1, 2))
    assert not has_dropout(exported(0.0, str(tmp_path / "none.pt2")).net)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_program_of_a_fixed_batch_size_has_the_masks_of_one_that_takes_any(batch: int) -> None:
    """It takes several passes for one batch; all of them must see the same masks."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    buffer, shape = io.BytesIO(), DataShape("images", 1, 8, 3)
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(batch, 1, 8, 8),)), buffer)
    x = torch.rand(6, 1, 8, 8) * 2 - 1
    answers = []
    for data in (buffer.getvalue(), None):
        program = _program(data, net, shape)
        answers.append(program.with_measure(MutualInformation(0.0, 0.5)).uncertainty(x))
    torch.testing.assert_close(answers[0], answers[1], atol=1e-6, rtol=1e-4)
    assert answers[0].unique().numel() == 6


def _program(data: bytes | None, net: nn.Module, shape: DataShape) -> FrozenClassifier:
    """What is exported, or else the module with any batch size."""
    if data is None:
        buffer = io.BytesIO()
        any_size = ({0: torch.export.Dim("n")},)
        torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=any_size), buffer)
        data = buffer.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.pt2"
        path.write_bytes(data)
        return load_classifier(str(path), shape)
