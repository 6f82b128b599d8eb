"""The frozen classifier: known answers, how it sees its input, that it cannot change, and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from second_device import DEVICE, second_device
from torch import nn

from stylegan2_msp.classifiers import ClassifierSpec, FrozenClassifier
from stylegan2_msp.classifiers.builtin import SmallCNN, SmallMLP
from stylegan2_msp.classifiers.recalibration import Temperature
from stylegan2_msp.errors import UserError
from stylegan2_msp.uncertainty import MEASURES, msp

POINTS = ClassifierSpec("mlp", "points", 2, 0, 0, 2, 0)


class Seen(nn.Module):
    """Returns what it is given, flattened."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def cnn(size: int = 8, channels: int = 1) -> FrozenClassifier:
    torch.manual_seed(0)
    args = {"width": 4, "hidden": 8}
    spec = ClassifierSpec("cnn", "images", 3, channels, size, channels, size, arch_args=args)
    return FrozenClassifier(spec, SmallCNN(size, channels, 3, **args))


def test_images_that_are_shrunk_for_the_network_are_averaged_first() -> None:
    """Stripes of four pixels, which points of every eighth would not tell from a flat image of either shade."""
    spec = ClassifierSpec("cnn", "images", 3, 1, 32, 1, 4, input_mean=(0.5,), input_std=(0.5,))
    stripes = torch.where(torch.arange(32) % 4 < 2, 1.0, -1.0).expand(1, 1, 32, 32)
    for shift in range(4):
        seen = FrozenClassifier(spec, Seen()).raw_logits(stripes.roll(shift, dims=3))
        assert seen.reshape(4, 4)[:, 1:-1].abs().max() < 0.1  # the outer ones reach beyond the edge


def test_msp_of_a_linear_classifier_is_the_logistic_function_of_its_margin() -> None:
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))
        net.bias.copy_(torch.tensor([0.5, 0.0]))
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 3.0], [0.0, 0.25]])
    margin = x[:, 0] - 2 * x[:, 1] + 0.5
    pred, u = FrozenClassifier(POINTS, net).predict(x)
    torch.testing.assert_close(u, 1 / (1 + torch.exp(-margin.abs())))
    assert pred[:3].tolist() == [0, 0, 1]
    assert u[3] == 0.5


def test_msp_stays_in_its_range() -> None:
    probs = torch.tensor([[1 / 3 - 1e-8] * 3, [1.0000001, 0.0, 0.0]])
    assert msp(probs).tolist() == [pytest.approx(1 / 3, rel=1e-7), 1.0]


def test_range_mean_and_std_are_applied_per_channel() -> None:
    spec = ClassifierSpec("program", "images", 12, 3, 2, 3, 2, (0.0, 255.0), (1.0, 2.0, 3.0), (1.0, 2.0, 4.0))
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    pixels = torch.tensor([0.0, 127.5, 191.25, 255.0])
    expected = torch.cat([pixels - 1, (pixels - 2) / 2, (pixels - 3) / 4])
    torch.testing.assert_close(FrozenClassifier(spec, Seen())(x)[0], expected)


def test_grey_becomes_three_channels_and_size_is_changed_differentiably() -> None:
    spec = ClassifierSpec("program", "images", 192, 1, 4, 3, 8, (-1.0, 1.0))
    x = torch.full((2, 1, 4, 4), 0.25, requires_grad=True)
    out = FrozenClassifier(spec, Seen())(x)
    torch.testing.assert_close(out, torch.full((2, 192), 0.25))
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 12.0))


def test_probabilities_become_logits() -> None:
    spec = replace(POINTS, output="probs")
    frozen = FrozenClassifier(spec, nn.Softmax(dim=1))
    x = torch.tensor([[0.3, -0.4]])
    torch.testing.assert_close(frozen.probs(x), x.softmax(1))


@pytest.mark.parametrize("size", [8, 64])
def test_the_steady_level_is_that_of_the_mean_logits_over_nine_shifts(size: int) -> None:
    """Against a literal loop; 1/32 of the side, at least a pixel, edges repeated."""
    frozen, step = cnn(size), max(1, size // 32)
    x = torch.rand(3, 1, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for down in (-step, 0, step):
        for right in (-step, 0, step):
            rows = (torch.arange(size) + down).clamp(0, size - 1)
            columns = (torch.arange(size) + right).clamp(0, size - 1)
            expected += frozen(x[:, :, rows][:, :, :, columns]).double() / 9
    classes = torch.tensor([0, 1, 2])
    steady = frozen.steady_level(x, classes)
    torch.testing.assert_close(steady.double(), expected.softmax(1).amax(1), rtol=1e-5, atol=1e-6)
    assert (steady - frozen.answer(x)[1]).abs().max() > 1e-4  # so it says something
    flat = torch.full((1, 1, size, size), 0.3)  # looks the same wherever it is
    torch.testing.assert_close(frozen.steady_level(flat, classes[:1]), frozen.answer(flat)[1])


@pytest.mark.parametrize("name", [name for name in MEASURES if not MEASURES[name].draws])
def test_every_measure_has_a_steady_level(name: str) -> None:
    frozen = cnn()
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1
    classes = torch.tensor([0, 1, 2, 0])
    frozen = frozen.with_measure(MEASURES[name]().fitted(frozen.measured_logits(x), classes))
    flat = x[:, :, :1, :1].expand(-1, -1, 8, 8)
    torch.testing.assert_close(frozen.steady_level(flat, classes), frozen.answer(flat, classes)[1], atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [4, 8, 16, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_built_in_cnn_takes_every_size(size: int, channels: int) -> None:
    x = torch.rand(2, channels, size, size) * 2 - 1
    assert cnn(size, channels)(x).shape == (2, 3)


def test_gradient_reaches_the_image_and_nothing_else() -> None:
    frozen = cnn()
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    frozen.predict(x)[1].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())


def test_answers_are_float32_inside_autocast() -> None:
    frozen, x = cnn(), torch.rand(2, 1, 8, 8)
    plain = frozen(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(frozen(x), plain)


def test_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"shape \[N, 1, 8, 8\], found \[2, 3, 8, 8\]"):
        cnn()(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"shape \[N, 1, 8, 8\], found \[1, 1, 16, 16\]"):  # not its upper left part
        cnn().steady_level(torch.zeros(1, 1, 16, 16), torch.tensor([0]))


@pytest.mark.parametrize("name", ["msp", "true_class", "softmax"])
def test_every_image_has_its_class(name: str) -> None:
    frozen, x = cnn().with_measure(MEASURES[name]()), torch.zeros(3, 1, 8, 8)
    for classes in (torch.tensor([1, 2]), torch.tensor([[0], [1], [2]])):
        with pytest.raises(ValueError, match="3 samples need as many classes"):
            frozen.answer(x, classes)
        if name == "true_class":
            with pytest.raises(ValueError, match="3 samples need as many classes"):
                frozen.uncertainty(x, classes)


@pytest.mark.parametrize(
    ("images", "found"),
    [(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"torch\.uint8"), (np.zeros((2, 1, 8, 8)), "a ndarray")],
)
def test_images_that_are_no_floats_are_refused(images: Any, found: str) -> None:
    with pytest.raises(TypeError, match=rf"images in \[-1, 1\] \(of bytes x / 127\.5 - 1\).*found {found}"):
        cnn().predict(images)


def test_stays_in_eval_inside_a_module_that_trains() -> None:
    frozen = cnn()
    nn.ModuleList([frozen]).train()
    assert not any(module.training for module in frozen.modules())
    frozen.verify_frozen()


def test_verify_frozen_notices_every_change() -> None:
    changed = cnn()
    changed.verify_frozen()
    with torch.no_grad():
        changed.net.head[0].bias[0] += 1e-6
    with pytest.raises(RuntimeError, match="parameters or buffers"):
        changed.verify_frozen()
    buffers = cnn()
    buffers.shift += 1
    with pytest.raises(RuntimeError, match="parameters or buffers"):
        buffers.verify_frozen()
    trained = cnn()
    trained.net.train()
    with pytest.raises(RuntimeError, match="training mode"):
        trained.verify_frozen()
    learning = cnn()
    learning.requires_grad_(True)
    with pytest.raises(RuntimeError, match="gradients"):
        learning.verify_frozen()


def test_bytes_round_trip_and_are_always_the_same() -> None:
    frozen = cnn()
    data = frozen.to_bytes()
    again = FrozenClassifier.from_bytes(data)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x), frozen(x))
    assert again.spec == frozen.spec
    assert again.sha256 == frozen.sha256
    assert all(cnn().to_bytes() == data for _ in range(5))
    assert safetensors.torch.load(data)["net.head.0.bias"].shape == (8,)


@pytest.mark.parametrize("cut", [0, 3, 8, 60, -4])
def test_damaged_bytes_are_one_line(cut: int) -> None:
    data = cnn().to_bytes()
    with pytest.raises(UserError, match=r"x\.zip") as error:
        FrozenClassifier.from_bytes(data[:cut] if cut else b"", "x.zip")
    assert "\n" not in str(error.value)


def rewritten(spec: str, tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    metadata = {"format": "stylegan2-msp classifier", "version": "1", "spec": spec}
    return safetensors.torch.save(tensors or {"net.a": torch.zeros(1)}, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "__import__('os')"}, "arch"),
        ({"num_classes": 10**9}, "num_classes"),
        ({"num_classes": True}, "num_classes"),
        ({"arch_args": {"width": 4, "hidden": 60_000}}, "do not fit"),
        ({"arch_args": {"code": 1}}, "code"),
        ({"input_std": [0.0]}, "input_std"),
        ({"input_mean": [float("nan")]}, "input_mean"),
        ({"input_channels": 2}, "2-channel"),
        ({"input_size": 12}, "power-of-two"),
        ({"surprise": 1}, "unknown"),
        ({"arch": "program", "arch_args": {"nodes": 1}}, "malformed"),
    ],
)
def test_hostile_descriptions_are_one_line(change: dict[str, object], message: str) -> None:
    frozen = cnn()
    spec = json.loads(frozen.spec.to_json()) | change
    tensors = safetensors.torch.load(frozen.to_bytes())
    with pytest.raises(UserError, match=message) as error:
        FrozenClassifier.from_bytes(rewritten(json.dumps(spec), tensors))
    assert "\n" not in str(error.value)


def test_other_formats_and_versions_are_refused() -> None:
    with pytest.raises(UserError, match="without its network"):
        FrozenClassifier.from_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    newer = safetensors.torch.save(
        {"a": torch.zeros(1)}, {"format": "stylegan2-msp classifier", "version": "2", "spec": "{}"}
    )
    with pytest.raises(UserError, match="version '2'"):
        FrozenClassifier.from_bytes(newer)


def test_points_classifier_round_trips() -> None:
    torch.manual_seed(0)
    frozen = FrozenClassifier(replace(POINTS, input_mean=(0.5, 0.25), input_std=(2.0, 1.0)), SmallMLP(2, 2))
    x = torch.randn(4, 2)
    scaled = (x - torch.tensor([0.5, 0.25])) / torch.tensor([2.0, 1.0])
    torch.testing.assert_close(frozen(x), frozen.net(scaled))
    assert torch.equal(FrozenClassifier.from_bytes(frozen.to_bytes())(x), frozen(x))


def test_a_file_from_before_measures_and_recalibration_is_read_as_msp() -> None:
    frozen = cnn()
    data = frozen.to_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    spec = json.loads(header["__metadata__"]["spec"])
    assert spec.pop("uncertainty") == {"name": "msp"}
    assert spec.pop("recalibration") == {"name": "none"}
    header["__metadata__"]["spec"] = json.dumps(spec)
    text = json.dumps(header).encode()
    old = FrozenClassifier.from_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    assert torch.equal(old(x), frozen(x))
    assert torch.equal(old.uncertainty(x), frozen.predict(x)[1])
    pred, u = old.answer(x)
    assert torch.equal(pred, frozen.predict(x)[0])
    assert torch.equal(u, old.uncertainty(x))


@pytest.mark.parametrize("name", ["msp", "entropy", "margin", "true_class", "energy", "softmax"])
def test_uncertainty_is_the_measure_of_the_logits_and_differentiable_in_the_image(name: str) -> None:
    frozen = cnn().with_measure(MEASURES[name]())
    x = (torch.rand(3, 1, 8, 8) * 2 - 1).requires_grad_(True)
    classes = torch.tensor([0, 1, 2])
    measure = MEASURES[name]().fitted(frozen(x).detach(), classes)
    frozen = frozen.with_measure(measure)
    u = frozen.uncertainty(x, classes)
    torch.testing.assert_close(u, measure(frozen(x), classes))
    u.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in frozen.parameters())
    again = FrozenClassifier.from_bytes(frozen.to_bytes())
    assert again.measure == frozen.measure
    assert torch.equal(again.uncertainty(x, classes), u)


def test_another_measure_or_recalibration_stays_on_the_device() -> None:
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    at_home = cnn().with_measure(MEASURES["entropy"]()).with_recalibration(Temperature(2.0))
    with second_device():
        away = cnn().to(DEVICE).with_measure(MEASURES["entropy"]()).with_recalibration(Temperature(2.0))
        found = away.uncertainty(x.to(DEVICE)).cpu()
    torch.testing.assert_close(found, at_home.uncertainty(x))
