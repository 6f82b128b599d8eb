"""Training the built-in classifiers: the split, the same result for a seed, and the accuracy it must reach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_moons

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.classifiers.train import RECIPES, split_validation, to_float, train_classifier
from stylegan2_msp.data.corruptions import corrupt_gaussian
from stylegan2_msp.data.sources.mnist import mnist
from stylegan2_msp.errors import UserError


def digits(count: int = 1797) -> tuple[torch.Tensor, torch.Tensor]:
    bunch = load_digits()
    images = np.kron(bunch.images[:count] * 15.9, np.ones((1, 2, 2))).astype(np.uint8)[:, None]
    return torch.from_numpy(images), torch.from_numpy(bunch.target[:count].astype(np.int64))


def moons(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    points, classes = make_moons(count, noise=0.3, random_state=seed)
    return torch.from_numpy(points).float(), torch.from_numpy(classes.astype(np.int64))


def test_a_tenth_of_every_class_is_held_out() -> None:
    classes = torch.tensor([0] * 50 + [1] * 20 + [2] * 3)
    train, val = split_validation(classes, 3, torch.Generator().manual_seed(0))
    assert torch.bincount(classes[val]).tolist() == [5, 2, 1]
    assert sorted(train.tolist() + val.tolist()) == list(range(73))
    other = split_validation(classes, 3, torch.Generator().manual_seed(1))[1]
    same = split_validation(classes, 3, torch.Generator().manual_seed(0))[1]
    assert torch.equal(same, val)
    assert not torch.equal(other, val)


def test_classes_of_one_sample_or_none_are_not_held_out() -> None:
    train, val = split_validation(torch.tensor([3, 0, 0, 3, 1, 3]), 4, torch.Generator())
    assert train.tolist() == sorted(set(range(6)) - set(val.tolist()))
    assert torch.bincount(torch.tensor([3, 0, 0, 3, 1, 3])[val], minlength=4).tolist() == [1, 0, 0, 1]


def test_too_few_samples_to_validate_are_one_line() -> None:
    with pytest.raises(UserError, match="no class has 2 samples"):
        split_validation(torch.tensor([0, 1, 2]), 3, torch.Generator())


def test_the_seed_settles_every_weight() -> None:
    images, classes = digits(300)
    state = torch.random.get_rng_state()
    first = train_classifier(images, classes, 10, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    assert train_classifier(images, classes, 10, seed=3).to_bytes() == first.to_bytes()


def test_the_seed_settles_dropout() -> None:
    points, classes = moons(500, 0)
    found = []
    for other in (1, 2):
        torch.manual_seed(other)
        state = torch.random.get_rng_state()
        found.append(train_classifier(points, classes, 2, seed=3, dropout=25).to_bytes())
        assert torch.equal(torch.random.get_rng_state(), state)
    assert found[0] == found[1]


def test_moons_classifier_is_accurate_smooth_and_calibrated() -> None:
    frozen = train_classifier(*moons(4000, 0), 2, seed=0)
    points, classes = moons(4000, 1)
    pred, u = frozen.predict(points)
    right = (pred == classes).float()
    assert 0.9 < right.mean() < 0.93
    assert abs(right.mean() - u.mean()) < 0.02
    for low in (0.5, 0.6, 0.7, 0.8, 0.9):
        level = (u >= low) & (u <= low + 0.1)
        assert level.sum() > 50
        assert abs(right[level].mean() - u[level].mean()) < 0.1
    steps = torch.stack([torch.linspace(-2, 3, 501), torch.full((501,), 0.25)], dim=1)
    assert frozen.predict(steps)[1].diff().abs().max() < 0.05


@pytest.mark.slow
def test_digits_classifier_is_accurate() -> None:
    report = train_classifier(*digits(), 10, seed=0).spec.report
    assert report["val_accuracy"] > 0.96
    assert report["train_size"] + report["val_size"] == 1797


def test_a_part_of_mnist_is_learned(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "cnn", replace(RECIPES["cnn"], samples=10_000))
    part = mnist(mnist_dir, max_images=4000)
    frozen = train_classifier(torch.from_numpy(part.data), torch.from_numpy(part.classes), 10, seed=0)
    assert frozen.spec.report["val_accuracy"] > 0.9


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("corrupt", [False, True])
def test_mnist_reaches_the_papers_accuracy(mnist_dir: Path, corrupt: bool) -> None:
    samples = mnist(mnist_dir)
    if corrupt:
        samples = corrupt_gaussian(samples, "imagenet-c", 0)
    frozen = train_classifier(torch.from_numpy(samples.data), torch.from_numpy(samples.classes), 10, seed=0)
    low, high = (0.93, 0.955) if corrupt else (0.983, 1.0)
    assert low <= frozen.spec.report["val_accuracy"] <= high
    again = FrozenClassifier.from_bytes(frozen.to_bytes())
    few = to_float(torch.from_numpy(samples.data[:4]))
    assert torch.equal(again(few), frozen(few))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_it_trains_and_answers_on_a_gpu() -> None:
    images, classes = digits()
    frozen = train_classifier(images, classes, 10, seed=0, device=torch.device("cuda", 0))
    assert frozen.spec.report["val_accuracy"] > 0.9
    assert frozen.scale.device == next(frozen.parameters()).device
    assert frozen.probs(to_float(images[:8].cuda())).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y - 1), r"\[60\] from 0 to 9, found \[60\] from -1 to 8"),
        (lambda x, y: (x, y + 1), "found .* from 1 to 10"),
        (lambda x, y: (x, y[:50]), r"found \[50\]"),
        (lambda x, y: (x / 255, y), r"images uint8 .* found torch\.float32 \[60, 1, 16, 16\]"),
        (lambda x, y: (x[:, 0], y), r"found torch\.uint8 \[60, 16, 16\]"),
    ],
)
def test_samples_without_a_class_are_not_left_out_in_silence(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_classifier(*change(*digits(60)), 10)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu")])
def test_training_does_not_depend_on_the_callers_mode(mode: Any) -> None:
    plain = train_classifier(*digits(100), 10).to_bytes()
    with mode():
        assert train_classifier(*digits(100), 10).to_bytes() == plain
