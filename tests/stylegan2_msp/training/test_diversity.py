"""What G is charged for fakes that resemble each other: literal formulas, and generators whose charge is known."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.config import DataInfo, resolve
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.dataset import SampleOrder, TrainingSet
from stylegan2_msp.training.diversity import Diversity, real_distances

K = 3


def labels(classes: list[int]) -> torch.Tensor:
    return make_labels(torch.tensor(classes), torch.linspace(0.4, 1, len(classes)), K)


def literal(img: torch.Tensor, classes: list[int], apart: torch.Tensor) -> float:
    pairs = [(i, j) for i, j in itertools.combinations(range(len(classes)), 2) if classes[i] == classes[j]]
    shares = [float((img[i] - img[j]).square().sum().sqrt() / apart[classes[i]]) for i, j in pairs]
    return max(0.0, 1 - sum(shares) / len(shares))


def test_charge_is_the_literal_mean_over_pairs_of_a_class() -> None:
    torch.manual_seed(0)
    img, classes, apart = torch.randn(7, 2, 4, 4), [0, 1, 0, 2, 1, 0, 1], torch.tensor([9.0, 20.0, 5.0])
    charge = Diversity(1.0, apart).charge(img, labels(classes))
    assert float(charge) == pytest.approx(literal(img, classes, apart), rel=1e-5)
    assert 0.2 < float(charge) < 0.5


def test_as_far_apart_as_reals_costs_nothing_and_further_apart_does_not_pay() -> None:
    torch.manual_seed(1)
    img, c = torch.randn(12, 1, 8, 8), labels([0] * 12)
    apart = torch.pdist(img.flatten(1)).mean().repeat(K)
    of_reals = Diversity(4.0, apart)
    assert float(of_reals.charge(img, c)) == pytest.approx(0, abs=1e-5)
    assert float(of_reals.charge(2 * img, c)) == 0
    assert float(of_reals.charge(img / 4, c)) == pytest.approx(0.75, abs=1e-5)
    assert float(of_reals.charge(img[:1].repeat(12, 1, 1, 1), c)) == 1  # one image for all


def test_without_pairs_nothing_is_charged() -> None:
    img = torch.randn(3, 1, 4, 4, requires_grad=True)
    charge = Diversity(4.0, torch.ones(K)).charge(img, labels([0, 1, 2]))
    assert float(charge) == 0


def test_the_charge_draws_fakes_of_a_class_apart() -> None:
    torch.manual_seed(2)
    img = (0.1 * torch.randn(4, 1, 4, 4, dtype=torch.float64)).requires_grad_(True)
    diversity, c = Diversity(1.0, torch.full((K,), 8.0, dtype=torch.float64)), labels([0, 0, 1, 1])
    assert torch.autograd.gradcheck(lambda x: diversity.charge(x, c), img)
    (slope,) = torch.autograd.grad(diversity.charge(img, c), img)
    moved = (img - slope).detach()
    for i, j in ((0, 1), (2, 3)):
        assert (moved[i] - moved[j]).norm() > (img[i] - img[j]).norm()


def test_large_images_are_compared_by_their_means_over_areas() -> None:
    torch.manual_seed(3)
    img, apart = torch.randn(4, 3, 64, 64), torch.full((K,), 60.0)
    expected = literal(avg_pool2d(img, 2), [0, 0, 1, 1], apart)
    assert float(Diversity(1.0, apart).charge(img, labels([0, 0, 1, 1]))) == pytest.approx(expected, rel=1e-5)


def test_distances_of_reals(digits_archive: Path) -> None:
    data = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))
    found = real_distances(data, 10, SampleOrder(data.labels, 10, 0.5, seed=0))
    for k in (0, 7):
        x = data.reals((data.labels[:, k] == 1).nonzero().flatten()).flatten(1).numpy()
        every = [np.linalg.norm(a - b) for a, b in itertools.combinations(x, 2)]
        assert float(found[k]) == pytest.approx(np.mean(every), rel=0.12)
    again = real_distances(data, 10, SampleOrder(data.labels, 10, 0.5, seed=0))
    assert torch.equal(found, again)  # a resumed run charges as before


def test_a_class_of_one_real_gets_the_mean_of_the_others(digits_archive: Path) -> None:
    data = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))
    classes = data.labels[:, :10].argmax(dim=1)
    kept = torch.cat([(classes != 4).nonzero().flatten(), (classes == 4).nonzero().flatten()[:1]])
    data.labels, data.data = data.labels[kept], data.data[kept]
    order = SampleOrder(data.labels, 10, 0.0, seed=0)
    found = real_distances(data, 10, order)
    rest = torch.cat([found[:4], found[5:]])
    assert found[4] > 0
    assert rest.min() < found[4] < rest.max()


def test_who_is_charged_by_default() -> None:
    images = DataInfo("images", 16, 1, 10, annotated=True)
    assert resolve({"data": "x"}, images, 1, "cpu", False).diversity == 4
    assert resolve({"data": "x", "diversity": 0.0}, images, 1, "cpu", False).diversity == 0
    assert resolve({"data": "x", "cond_msp": False, "cond": True}, images, 1, "cpu", False).diversity == 0
    assert resolve({"data": "x"}, DataInfo("points", 0, 0, 2, annotated=True), 1, "cpu", False).diversity == 0
