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
from stylegan2_msp.errors import UserError
from stylegan2_msp.options import check_choices
from stylegan2_msp.training.distributed import World
from stylegan2_msp.training.diversity import Diversity, real_diversity
from stylegan2_msp.training.labels import LabelDraws, twin_labels
from stylegan2_msp.training.losses import Objective
from stylegan2_msp.training.neighbours import Neighbours
from stylegan2_msp.training.step import Trainer
from torch_utils_ext.rng import BatchRng

K = 3
DISTANCES = torch.tensor([9.0, 20.0, 5.0])


def labels(classes: list[int], level: float = 0.9) -> torch.Tensor:
    return make_labels(torch.tensor(classes), torch.full((len(classes),), level), K)


def apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distance of images [n, C, H, W] but for the mean of each channel, [n]."""
    difference = a - b
    return (difference - difference.mean(dim=(2, 3), keepdim=True)).square().sum(dim=(1, 2, 3)).sqrt()


class Alike(torch.nn.Module):
    """Makes one picture."""

    def mapping(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return z

    def synthesis(self, ws: torch.Tensor, rng: BatchRng) -> torch.Tensor:
        return torch.linspace(-1, 1, 16).view(1, 1, 4, 4).expand(len(ws), -1, -1, -1)


class Blind(torch.nn.Module):
    """D that sees nothing."""

    def forward(self, img: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return img.new_zeros(len(img), 1)


def charging(distances: torch.Tensor = DISTANCES, weight: float = 1.0) -> Diversity:
    """One real of each class, with this distance from others."""
    return Diversity(weight, distances, Neighbours(labels([0, 1, 2]), K), torch.zeros(10, dtype=distances.dtype))


def test_charge_is_the_literal_mean_over_twins() -> None:
    torch.manual_seed(0)
    img, classes = torch.randn(7, 2, 4, 4), [0, 1, 2, 1, 0, 1, 2]  # the fourth has no twin
    shares = [float(apart(img[i : i + 1], img[i + 4 : i + 5])) / float(DISTANCES[classes[i]]) for i in range(3)]
    charge = charging().charge(0.3 * img, labels(classes))
    assert float(charge) == pytest.approx(1 - 0.3 * np.mean(shares), rel=1e-5)
    assert 0.2 < float(charge) < 0.8


def test_as_far_apart_as_reals_costs_nothing_and_further_apart_does_not_pay() -> None:
    torch.manual_seed(1)
    img, c = torch.randn(12, 1, 8, 8), labels([0] * 12)
    of_reals = charging(apart(img[:6], img[6:]).mean().repeat(K))
    assert float(of_reals.charge(img, c)) == pytest.approx(0, abs=1e-5)
    assert [float(of_reals.charge(2 * img, c)) for _ in range(60)] == [0] * 60
    assert float(charging(of_reals.apart).charge(2 * img, c)) == 0  # nor where a varied G is met for the first time
    charged = [float(of_reals.charge(img / 4, c)) for _ in range(60)]
    assert charged[0] == 0
    assert charged[-1] == pytest.approx(0.75, abs=1e-5)
    same = img[:1].repeat(12, 1, 1, 1)
    assert float(of_reals.charge(same, c)) == 1
    assert float(of_reals.charge(same + torch.randn(12, 1, 1, 1), c)) == pytest.approx(1, abs=1e-5)  # shades


def test_every_level_is_held_to_its_reals_by_itself() -> None:
    torch.manual_seed(1)
    img = torch.randn(8, 1, 8, 8)
    c = make_labels(torch.zeros(8, dtype=torch.int64), torch.tensor([0.95, 0.95, 0.35, 0.35] * 2), K)
    of_reals = charging(apart(img[:4], img[4:]).mean().repeat(K))
    factor = torch.tensor([2.0, 2.0, 0.5, 0.5] * 2)[:, None, None, None]
    img = (factor * img).requires_grad_(True)
    for _ in range(60):
        charge = of_reals.charge(img, c)
    shares = (apart(img[:4], img[4:]) / of_reals.apart[0]).detach()
    assert float(shares.mean()) > 1
    assert float(charge.detach()) == pytest.approx(float((1 - shares[2:]).sum()) / 4, rel=1e-5)
    (slope,) = torch.autograd.grad(charge, img)
    assert not slope[[0, 1, 4, 5]].any()
    assert slope[[2, 3, 6, 7]].flatten(1).any(dim=1).all()
    assert of_reals.reached[[3, 9]].tolist() == pytest.approx(
        [float(shares[2:].mean()), float(shares[:2].mean())], rel=0.06
    )
    assert not of_reals.reached[[0, 1, 2, 4, 5, 6, 7, 8]].any()


def test_the_first_batch_settles_what_is_reached_and_each_later_one_a_twentieth_of_it() -> None:
    torch.manual_seed(5)
    img, c, diversity = torch.randn(2, 1, 8, 8), labels([0, 0], 0.95), charging()
    share = float(apart(img[:1], img[1:])) / 9.0
    for factor, reached in ((1.0, 1.0), (0.0, 0.95), (2.0, 0.95 * 0.95 + 0.05 * 2)):
        diversity.charge(factor * img, c)
        assert float(diversity.reached[9]) == pytest.approx(share * reached, rel=1e-5)


def test_processes_follow_their_whole_batch() -> None:
    torch.manual_seed(4)
    img, classes = torch.randn(16, 1, 8, 8), [0, 1, 2, 0, 1, 2, 0, 1] * 2
    alone = charging()
    alone.charge(img, labels(classes))
    sums: list[torch.Tensor] = []
    for rank in (0, 1):
        charging().charge(img[rank::2], labels(classes[rank::2]), lambda value: sums.append(value) or value)  # type: ignore[func-returns-value]
    for rank in (0, 1):
        one = charging()
        one.charge(img[rank::2], labels(classes[rank::2]), lambda value: (sums[0] + sums[1]) / 2)
        torch.testing.assert_close(one.reached, alone.reached)


def test_a_single_fake_is_charged_nothing() -> None:
    assert float(charging().charge(torch.randn(1, 1, 4, 4), labels([2]))) == 0


def test_the_charge_draws_twins_apart() -> None:
    torch.manual_seed(2)
    img = (0.1 * torch.randn(4, 1, 4, 4, dtype=torch.float64)).requires_grad_(True)
    diversity, c = charging(torch.full((K,), 8.0, dtype=torch.float64)), labels([0, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda x: diversity.charge(x, c), img)
    (slope,) = torch.autograd.grad(diversity.charge(img, c), img)
    moved = (img - slope).detach()
    for i in (0, 1):
        assert (moved[i] - moved[i + 2]).norm() > (img[i] - img[i + 2]).norm()


def test_large_images_are_compared_by_their_means_over_areas() -> None:
    torch.manual_seed(3)
    img, c, diversity = torch.randn(4, 3, 64, 64), labels([0, 1, 0, 1]), charging(torch.full((K,), 60.0))
    assert float(diversity.charge(img, c)) == pytest.approx(float(diversity.charge(avg_pool2d(img, 2), c)), rel=1e-5)


def either_side(classes: torch.Tensor, u: torch.Tensor, k: int, level: float) -> list[int]:
    """Reals of class k: the 32 nearest levels below and the 32 from the level on."""
    members = (classes == k).nonzero().flatten()
    members = members[u[members].argsort()]
    below = int((u[members] < level).sum())
    return [int(i) for i in members[max(below - 32, 0) : below + 32]]


def test_distances_of_reals_are_those_of_their_class_near_their_level(digits_archive: Path) -> None:
    data = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))
    diversity = real_diversity(data, 10, weight=4.0)
    classes, u, x = data.labels[:, :10].argmax(dim=1), data.labels[:, 10], data.reals(torch.arange(len(data)))
    for row in (0, 250, len(data) - 1):
        literal = [
            float(apart(x[row : row + 1], x[i : i + 1]))
            for i in either_side(classes, u, classes[row], u[row])
            if i != row
        ]
        assert float(diversity.apart[row]) == pytest.approx(np.mean(literal), rel=0.03)  # edges repeat some


def test_what_reals_would_be_charged(digits_archive: Path) -> None:
    """Two random reals near every label lie as far apart as is asked; one and the same does not."""
    data = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))
    diversity = real_diversity(data, 10, weight=4.0)
    torch.manual_seed(0)
    c = twin_labels(data.labels[torch.randint(len(data), (1200,))])
    near = diversity.neighbours.of(c)
    picked = near.gather(1, torch.randint(64, (1200, 1)))[:, 0]
    assert float(diversity.charge(data.reals(picked), c)) == pytest.approx(0, abs=0.05)
    diversity.reached.zero_()
    assert float(diversity.charge(data.reals(near[:, 5]), c)) > 0.9  # the same picture for the same label


def test_a_real_without_others_gets_the_mean_of_all(digits_archive: Path) -> None:
    data = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))
    classes = data.labels[:, :10].argmax(dim=1)
    kept = torch.cat([(classes != 4).nonzero().flatten(), (classes == 4).nonzero().flatten()[:1]])
    data.labels, data.data = data.labels[kept], data.data[kept]
    apart = real_diversity(data, 10, weight=1.0).apart
    assert float(apart[-1]) == pytest.approx(float(apart[:-1].mean()))
    data.labels, data.data = data.labels[-1:], data.data[-1:]
    assert float(real_diversity(data, 10, 1.0).charge(data.reals(torch.tensor([0, 0])), data.labels[[0, 0]])) == 1


def test_twins_share_labels_that_follow_the_data(digits_archive: Path) -> None:
    data = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))
    draws = LabelDraws(data.labels, 10, SampleOrder(data.labels, 10, 0.5, seed=0), BatchRng(0))
    batches = [draws.fakes(7, twins=True) for _ in range(600)]
    for c, told in batches[:5]:
        assert torch.equal(c, told)
        assert torch.equal(c[:3], c[4:])
    alone = torch.cat([draws.fakes(7)[0] for _ in range(600)])
    torch.testing.assert_close(torch.cat([c for c, _ in batches]).mean(dim=0), alone.mean(dim=0), atol=0.03, rtol=0)


def test_only_g_s_own_step_has_twins(digits_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"data": str(digits_archive), "batch": 16, "cfg": "tiny", "aug": "noaug", "diversity": 4.0}
    config = resolve(given, DataInfo("images", 16, 1, 10, annotated=True), 1, "cpu", False)
    data = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))
    trainer = Trainer(config, data, 10, None, World(0, 1, torch.device("cpu"), 1))
    seen: list[torch.Tensor] = []

    def caught(self: Objective, img: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        seen.append(c)
        return img.flatten(1).mean(dim=1, keepdim=True)

    monkeypatch.setattr(Objective, "discriminate", caught)
    trainer.generator_phase()
    _, c, _ = trainer._latents()
    (told,) = seen
    assert torch.equal(told[:8, :11], told[8:, :11])
    assert not torch.equal(told[:8, 11], told[8:, 11])  # each has its own latent, and so its own sharpness
    assert not torch.equal(c[:8], c[8:])
    assert "diversity" in trainer.pop_statistics()


def test_the_weight_multiplies_the_charge_in_g_s_loss() -> None:
    """Twins that are alike are charged 1."""
    c = labels([0, 1, 0, 1])

    def losses(weight: float) -> dict[str, torch.Tensor]:
        objective = Objective(Alike(), Blind(), None, BatchRng(0), diversity=charging(weight=weight))  # type: ignore[arg-type]
        return objective.generator(torch.randn(4, 2), c, c)

    assert float(losses(1.0)["diversity"]) == 1
    assert float(losses(2.5)["diversity"]) == 2.5


def test_twins_are_the_same_whatever_the_number_of_processes(digits_archive: Path) -> None:
    data = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))

    def drawn(n: int, rank: int, size: int) -> torch.Tensor:
        rng = BatchRng(0, rank=rank, world_size=size)
        return LabelDraws(data.labels, 10, SampleOrder(data.labels, 10, 0.5, 0), rng).fakes(n, twins=True)[0]

    halves = torch.stack([drawn(8, rank, 2) for rank in (0, 1)], dim=1).flatten(0, 1)
    assert torch.equal(drawn(16, 0, 1), halves)


def test_neighbours_are_the_nearest_of_the_class() -> None:
    rng = np.random.default_rng(0)
    classes, u = torch.from_numpy(rng.integers(0, K, 900)), torch.from_numpy(rng.uniform(0.3, 1, 900)).float()
    neighbours = Neighbours(make_labels(classes, u, K), K)
    for k, level in itertools.product(range(K), (0.35, 0.6, 0.99)):
        found = neighbours.of(labels([k], level))
        assert found.shape == (1, 64)
        assert set(found[0].tolist()) == set(either_side(classes, u, k, level))


def test_who_is_charged() -> None:
    images = DataInfo("images", 16, 1, 10, annotated=True)
    asked = {"data": "x", "diversity": 2.0}
    assert resolve(asked, images, 1, "cpu", False).diversity == 2
    assert resolve({"data": "x"}, images, 1, "cpu", False).diversity == 4
    assert resolve({"data": "x"}, DataInfo("points", 0, 2, 2, annotated=True), 1, "cpu", False).diversity == 0
    by_class = {"data": "x", "cond_msp": False, "cond": True}
    assert resolve(by_class, images, 1, "cpu", False).diversity == 0
    with pytest.raises(UserError, match="--diversity: needs the MSP; add --cond-msp=1"):
        resolve(asked | by_class, images, 1, "cpu", False)
    with pytest.raises(UserError, match="--diversity: must be at least 0"):
        check_choices({"diversity": -1.0})
