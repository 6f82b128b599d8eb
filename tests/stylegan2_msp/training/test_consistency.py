"""What the frozen classifier adds to G's loss, against the formulas written out by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from stylegan2_msp.agreement import ClassAgreement, real_agreement
from stylegan2_msp.augment import AugmentPipe
from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.conditioning import level, make_labels
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.networks import PointDiscriminator, PointGenerator
from stylegan2_msp.training.consistency import MILD, Consistency, ask
from stylegan2_msp.training.losses import Objective
from stylegan2_msp.training.step import consistency_strength
from stylegan2_msp.uncertainty import Energy, Entropy, Measure, Msp, Softmax
from torch_utils_ext.rng import BatchRng

K = 3
IMG = torch.tensor([[0.5, -0.2, 0.1], [-3.0, 0.4, 0.3], [0.9, 0.8, -0.7], [0.0, 0.1, 0.2]])[:, :, None, None]
CLASSES = torch.tensor([0, 1, 1, 0])
Z = torch.zeros(4, 2)


class PixelClassifier(nn.Module):
    """Three pixels times 4 are the logits."""

    num_classes = K

    def __init__(self, measure: Measure | None = None) -> None:
        super().__init__()
        self.measure = measure or Msp()
        self.weight = nn.Parameter(torch.tensor(4.0), requires_grad=False)

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img.flatten(1)[:, :K] * self.weight


def labels(u: Any) -> torch.Tensor:
    return make_labels(CLASSES, u, K)


def probs() -> torch.Tensor:
    """p of each image, slowly; a file of the image would hold pixels within [-1, 1]."""
    clipped = [[4 * max(-1.0, min(1.0, x)) for x in row] for row in IMG[:, :, 0, 0].tolist()]
    return torch.tensor([[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in clipped])


def asks(measure: Measure | None = None, **options: Any) -> Consistency:
    return Consistency(PixelClassifier(measure), BatchRng(0), **options)  # type: ignore[arg-type]


def divergence(asked: list[float], answered: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(asked, answered, strict=True) if a > 0)


def test_distance_is_the_mean_distance_and_divergence_between_asked_and_answered() -> None:
    u = [0.9, 0.6, 0.5, 1.0]
    expected = 0.0
    for p, a in zip(probs().tolist(), u, strict=True):
        v = max(p)
        expected += abs(v - a) + divergence([a, 1 - a], [v, 1 - v])
    assert float(asks().charge(IMG, labels(torch.tensor(u)), Z)[0]) == pytest.approx(expected / 4, rel=1e-5)
    one = torch.tensor([[0.9, 0.0, 0.0]] * 4)[:, :, None, None]  # an answer that is asked for exactly costs nothing
    v = PixelClassifier()(one).softmax(dim=1).amax(dim=1)
    assert float(asks().charge(one, labels(v), Z)[0]) == pytest.approx(0, abs=1e-6)


def test_an_answer_that_is_all_but_certain_can_still_be_moved() -> None:
    """|v - u| alone has no slope there: at a logit of 32, 1 - v is 3e-14. That of the divergence is v - u."""
    consistency = asks()
    for logit in (8.0, 16.0, 24.0, 32.0, 40.0):
        consistency.classifier.weight.data.fill_(logit)
        img = torch.tensor([[1.0, 0.0, 0.0]] * 4)[:, :, None, None].requires_grad_(True)
        distance, _ = consistency.charge(img, labels(0.7), Z)
        (slope,) = torch.autograd.grad(distance, img)
        if logit < 34:
            assert float(slope[0, 0]) * 4 / logit == pytest.approx(0.3, abs=0.01)
        assert torch.isfinite(slope).all()


def test_distance_of_another_measure() -> None:
    u = torch.tensor([0.1, 0.6, 0.5, 0.9])
    entropies = [-sum(x * math.log(x) for x in p) / math.log(3) for p in probs().tolist()]
    expected = sum(abs(h - float(a)) for h, a in zip(entropies, u, strict=True)) / 4
    assert float(asks(Entropy()).charge(IMG, labels(u), Z)[0]) == pytest.approx(expected, rel=1e-5)


def test_distance_of_softmax_vectors_is_half_of_l1_and_the_divergence() -> None:
    asked = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3]])
    expected = float((probs() - asked).abs().sum()) / 2 / 4
    expected += sum(divergence(a, p) for a, p in zip(asked.tolist(), probs().tolist(), strict=True)) / 4
    assert float(asks(Softmax()).charge(IMG, labels(asked), Z)[0]) == pytest.approx(expected, rel=1e-5)


def test_an_answer_beyond_the_range_counts_as_its_end() -> None:
    """Labels of measures with a recorded range are clipped to it."""
    measure = Energy(lowest=-2.0, highest=-1.9)  # every image lies outside
    assert float(asks(measure).charge(IMG, labels(0.25), Z)[0]) == pytest.approx(
        sum(0.75 if float((4 * row.clamp(-1, 1)).flatten().logsumexp(0)) < 1.9 else 0.25 for row in IMG) / 4
    )


def test_uniform_labels_cover_the_data_s_range_evenly_with_its_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    u = 0.4 + 0.5 * torch.rand(3000, generator=generator) ** 0.2
    classes = torch.tensor([0, 0, 0, 0, 1, 2]).repeat(500)
    consistency = asks(uniform=1.0, share=0.25, labels=make_labels(classes, u, K))
    c = consistency.uniform_labels(40_000)
    assert c.shape == (10_000, K + 1)
    torch.testing.assert_close(c[:, :K].mean(dim=0), torch.tensor([4, 1, 1]) / 6, atol=0.02, rtol=0)
    ordered = u.sort().values
    assert consistency.lowest == float(ordered[6])  # 0.2 % of 3000 are left out
    assert consistency.highest == float(ordered[-7])
    got = c[:, K].sort().values.double()
    even = torch.linspace(consistency.lowest, consistency.highest, 10_000).double()
    assert float((got - even).abs().max()) < 0.02


def test_uniform_softmax_labels_are_vectors_with_uniform_class_probability() -> None:
    shares = ((0.0, 0.5, 0.5), (1.0, 0.0, 0.0), (0.3, 0.7, 0.0))
    p = torch.rand(600, K, generator=torch.Generator().manual_seed(0)).log().neg()
    data = make_labels(torch.arange(600) % K, p / p.sum(dim=1, keepdim=True), K)
    consistency = asks(Softmax(shares), uniform=1.0, share=2.0, labels=data)
    c = consistency.uniform_labels(1000)
    assert c.shape == (2000, 2 * K)
    torch.testing.assert_close(c[:, K:].sum(dim=1), torch.ones(2000))
    own = level(c, K)
    assert float(own.std()) == pytest.approx((consistency.highest - consistency.lowest) / 12**0.5, rel=0.05)
    second = c[c[:, 1] == 1]
    torch.testing.assert_close(second[:, K] + second[:, K + 1], torch.ones(len(second)))  # class 1 shares with 0 only


class Spy(nn.Module):
    """A discriminator that remembers the labels that it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = PointDiscriminator(K + 1, 16)
        self.told: list[torch.Tensor] = []

    def forward(self, img: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        self.told.append(c)
        return self.inner(img, c)


class PointsClassifier(PixelClassifier):
    """Logits are linear in the point."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img @ torch.tensor([[1.0, -0.5, 0.2], [0.3, 1.0, -1.0]]) * self.weight


def objective(**options: Any) -> tuple[Objective, torch.Tensor]:
    torch.manual_seed(0)
    rng = BatchRng(3)
    data = make_labels([0, 1, 2, 0] * 50, torch.linspace(0.4, 1, 200), K)
    consistency = Consistency(PointsClassifier(), rng, labels=data, **options)  # type: ignore[arg-type]
    return Objective(PointGenerator(4, K + 1, hidden=16, w_dim=8), Spy(), None, rng, consistency), data  # type: ignore[arg-type]


def test_d_never_sees_uniform_labels_and_learns_nothing_from_the_classifier() -> None:
    found, data = objective(uniform=2.0, share=0.5)
    c = data[:16]
    z = torch.randn(16, 4)
    losses = found.generator(z, c, c, strength=1.0)
    assert set(losses) == {"G", "consistency", "consistency_uniform"}
    assert len(found.D.told) == 1
    assert torch.equal(found.D.told[0], c)
    extra = losses["consistency"] + losses["consistency_uniform"]
    grads = torch.autograd.grad(extra, list(found.D.parameters()), allow_unused=True, retain_graph=True)
    assert all(g is None for g in grads)
    assert all(
        g.abs().sum() > 0 for g in torch.autograd.grad(losses["consistency_uniform"], list(found.G.parameters()))
    )
    assert found.consistency.classifier.weight.grad is None


def test_the_second_batch_by_its_formula() -> None:
    found, data = objective(weight=0.5, uniform=2.0, share=0.5)
    c, z = data[:16], torch.randn(16, 4)
    twin = BatchRng(3)
    classes = data[twin.randint(200, 8), :K].argmax(dim=1)
    u = found.consistency.lowest + (found.consistency.highest - found.consistency.lowest) * twin.rand(8)
    points = found.G(twin.randn(8, 4), make_labels(classes, u, K))
    v = found.consistency.classifier(points).double().softmax(dim=1).amax(dim=1)
    before = found.G.mapping.w_avg.clone()
    losses = found.generator(z, c, c, strength=0.25)
    pairs = zip(u.tolist(), v.tolist(), strict=True)
    expected = sum(abs(a - b) + divergence([a, 1 - a], [b, 1 - b]) for a, b in pairs) / 8
    assert float(losses["consistency_uniform"].detach()) == pytest.approx(0.25 * 2 * expected, rel=1e-4)
    plain, _ = objective()
    plain.G.mapping.w_avg.copy_(before)
    plain.generator(z, c, c)
    torch.testing.assert_close(found.G.mapping.w_avg, plain.G.mapping.w_avg)  # uniform labels do not shift w_avg


def test_the_class_term_is_the_mean_over_both_batches() -> None:
    """Each batch's E[max_k p_k - p_y], as a(u) = 1 asks that f name every fake as its class."""
    always = ClassAgreement(torch.tensor([0.5]), torch.tensor([[1.0]]))
    found, data = objective(uniform=2.0, share=0.5, class_weight=6.0, agreement=always)
    c, z, twin = data[:16], torch.randn(16, 4), BatchRng(3)
    second = dataclasses.replace(found.consistency, rng=twin).uniform_labels(16)
    strayed = []
    for latents, asked in ((z, c), (twin.randn(8, 4), second)):
        p = found.consistency.classifier(found.G(latents, asked)).softmax(dim=1)
        strayed.append(float((p.amax(dim=1) - (p * asked[:, :K]).sum(dim=1)).mean().detach()))
    assert abs(strayed[0] - strayed[1]) > 0.01
    charged = float(found.generator(z, c, c, strength=0.5)["class"].detach())
    assert charged == pytest.approx(0.5 * 6 * sum(strayed) / 2, rel=1e-4)


def test_without_strength_nothing_is_drawn_and_nothing_added() -> None:
    found, data = objective(uniform=2.0, share=0.5)
    plain, _ = objective()
    plain.consistency = None
    c, z = data[:16], torch.randn(16, 4)
    one, two = found.generator(z, c, c), plain.generator(z, c, c, strength=1.0)
    assert one.keys() == two.keys() == {"G"}
    assert torch.equal(one["G"], two["G"])
    assert torch.equal(found.rng.state_dict()["generator"], plain.rng.state_dict()["generator"])


def test_level_and_class_are_charged_in_proportion_to_the_strength() -> None:
    agreement = ClassAgreement(torch.tensor([0.4, 1.0]), torch.tensor([[0.4, 1.0]]))
    c = make_labels([0, 1, 2, 0] * 4, torch.linspace(0.4, 1, 16), K)
    z = torch.randn(16, 4)

    def charged(strength: float | None, weight: float = 3.0, class_weight: float = 5.0) -> dict[str, float]:
        found, _ = objective(weight=weight, class_weight=class_weight, agreement=agreement)
        losses = found.generator(z, c, c, strength)
        return {name: float(loss.detach()) for name, loss in losses.items() if name != "G"}

    whole = charged(1.0)
    assert whole.keys() == {"consistency", "class"}
    assert min(whole.values()) > 0
    assert charged(0.25) == pytest.approx({name: loss / 4 for name, loss in whole.items()})
    assert charged(1.0, weight=6.0) == pytest.approx({**whole, "consistency": 2 * whole["consistency"]})
    assert charged(1.0, class_weight=15.0) == pytest.approx({**whole, "class": 3 * whole["class"]})
    assert charged(None) == {}


def test_strength_starts_and_rises() -> None:
    assert [consistency_strength(n, 20, 0) for n in (0, 19_999, 20_000, 10**6)] == [0, 0, 1, 1]
    assert [consistency_strength(n, 20, 40) for n in (0, 20_000, 30_000, 60_000, 10**6)] == [0, 0, 0.25, 1, 1]


def test_class_term_asks_as_many_fakes_to_be_named_right_as_reals_are() -> None:
    """a(0.9) = 0.8: the fake at the 79th percentile of z is to be named as its class, that at the 81st as another."""
    agreement = ClassAgreement(torch.tensor([0.4, 0.8, 1.0]), torch.tensor([[0.3, 0.7, 0.9]]))
    consistency = asks(class_weight=1.0, agreement=agreement)
    p = probs()
    for percentile, right in ((0.79, True), (0.81, False)):
        z = torch.randn(4, 5)
        z[:, 0] = torch.special.ndtri(torch.tensor(percentile))
        expected = 0.0
        for row, y in zip(p.tolist(), CLASSES.tolist(), strict=True):
            strongest_other = max(value for k, value in enumerate(row) if k != y)
            expected += max(row) - (row[y] if right else strongest_other)
        assert expected > 0
        assert float(consistency.charge(IMG, labels(0.9), z)[1]) == pytest.approx(expected / 4, rel=1e-5)


def test_class_term_draws_fakes_towards_the_answer_that_is_asked_for() -> None:
    agreement = ClassAgreement(torch.tensor([0.5]), torch.tensor([[0.5]]))
    consistency = asks(class_weight=1.0, agreement=agreement)
    for sign in (-1.0, 1.0):  # below the median: named right
        img = IMG.clone().requires_grad_(True)
        for _ in range(200):
            _, strayed = consistency.charge(img, labels(0.6), torch.full((4, 2), sign))
            (slope,) = torch.autograd.grad(strayed, img)
            img = (img - slope).detach().requires_grad_(True)
        right = PixelClassifier()(img).argmax(dim=1) == CLASSES
        assert right.tolist() == [sign < 0] * 4


def test_agreement_of_reals_is_piecewise_linear_in_their_level() -> None:
    agreement = ClassAgreement(torch.tensor([0.4, 0.8, 1.0]), torch.tensor([[0.3, 0.7, 0.9]]))
    asked = torch.tensor([0.0, 0.4, 0.5, 0.8, 0.95, 1.0, 1.2])
    expected = torch.tensor([0.3, 0.3, 0.4, 0.7, 0.85, 0.9, 0.9])
    torch.testing.assert_close(agreement(asked, torch.arange(7) % K), expected)
    of_two = ClassAgreement(agreement.levels, torch.cat([agreement.shares, 1 - agreement.shares]))
    classes = torch.tensor([0, 1, 0, 1, 1, 0, 1])
    torch.testing.assert_close(of_two(asked, classes), torch.where(classes == 0, expected, 1 - expected))
    flat = ClassAgreement(torch.tensor([0.5]), torch.tensor([[0.2], [0.6]]))
    torch.testing.assert_close(flat(asked[:2], torch.tensor([1, 0])), torch.tensor([0.6, 0.2]))


def test_agreement_of_reals_is_counted_in_cells(digits_archive: Any, frozen_cnn: FrozenClassifier) -> None:
    archive = open_archive(digits_archive)
    data = TrainingSet(archive, "class+msp", torch.device("cpu"), subset=300)
    predicted = frozen_cnn.probs(data.reals(torch.arange(300))).argmax(dim=1).numpy()
    right = predicted == archive.classes[data.index]
    assert data.named_right is not None
    assert data.named_right.tolist() == right.tolist()
    u = archive.u[data.index]
    found = real_agreement(data.labels, data.named_right, 10)
    cells = (u * 20).astype(int).clip(0, 19)
    held = sorted(set(cells.tolist()))
    assert found.levels.tolist() == pytest.approx([u[cells == k].mean() for k in held], abs=1e-5)
    assert found.shares.shape == (10, len(held))
    for place, k in enumerate(held):
        common = right[cells == k].mean()
        for y in range(10):  # five of all classes beside its own
            own = right[(cells == k) & (archive.classes[data.index] == y)]
            assert float(found.shares[y, place]) == pytest.approx((own.sum() + 5 * common) / (len(own) + 5), abs=1e-6)


def test_a_rare_class_is_to_be_named_right_as_often_as_its_own_reals_are() -> None:
    """At 0.93 f names 990 of 1,000 reals of a common class right, 60 of 100 of a rare one, 1 of 1 of a third."""
    numbers, named = torch.tensor([1000, 100, 1]), torch.tensor([990, 60, 1])
    classes = torch.arange(3).repeat_interleave(numbers)
    right = torch.cat([torch.arange(int(n)) < m for n, m in zip(numbers, named, strict=True)])
    found = real_agreement(make_labels(classes.tolist(), torch.full((1101,), 0.93), 3), right, 3)
    common = 1051 / 1101
    expected = [(990 + 5 * common) / 1005, (60 + 5 * common) / 105, (1 + 5 * common) / 6]
    assert found(torch.full((3,), 0.93), torch.arange(3)).tolist() == pytest.approx(expected, abs=1e-6)
    again = ClassAgreement.from_dict(json.loads(json.dumps(found.to_dict())), 3)
    assert torch.equal(again.shares, found.shares)


def test_networks_of_before_have_one_curve_for_all_classes() -> None:
    found = ClassAgreement.from_dict({"levels": [0.4, 1.0], "shares": [0.3, 0.9]}, 3)
    assert found(torch.tensor([0.4, 0.7, 1.0]), torch.tensor([2, 0, 1])).tolist() == pytest.approx([0.3, 0.6, 0.9])
    for levels, shares in (([0.4], [[0.3, 0.4]]), ([], []), ([0.4, 0.4], [0.1, 0.2]), ([0.4], []), ([[0.4]], [[0.3]])):
        with pytest.raises(ValueError, match="agreement"):
            ClassAgreement.from_dict({"levels": levels, "shares": shares}, 3)


def test_what_is_asked_is_told_how_often_reals_are_named_right() -> None:
    """A quarter of those at 0.5 and all at 0.9; without a class weight nobody asks."""
    data, right = make_labels([0, 1, 2, 0, 1], [0.5, 0.5, 0.5, 0.5, 0.9], K), torch.tensor([0, 0, 1, 0, 1]) == 1

    def made(class_weight: float, augment: float) -> Consistency:
        f = PixelClassifier()
        return ask(f, data, right, BatchRng(0), 2.0, 0.5, 0.25, class_weight, augment)  # type: ignore[arg-type]

    found = made(4.0, 0.3)
    assert found.agreement is not None
    asked = torch.tensor([0.5, 0.9, 0.5]), torch.tensor([0, 1, 2])  # at .5 class 0 has 2 reals, 2 has 1, 1 one
    assert found.agreement(*asked).tolist() == pytest.approx([(0 + 5 * 0.25) / 7, 1.0, (1 + 5 * 0.25) / 6])
    assert (found.weight, found.uniform, found.share, found.class_weight) == (2.0, 0.5, 0.25, 4.0)
    assert found.pipe is not None
    assert float(found.pipe.p) == pytest.approx(0.3)
    assert made(0.0, 0.0).agreement is None
    assert made(0.0, 0.0).pipe is None


def test_a_mild_pipe_changes_what_the_classifier_is_shown_and_shares_its_draws() -> None:
    img = torch.rand(8, 1, 32, 32) * 1.8 - 0.9

    class Watcher(PixelClassifier):
        def forward(self, img: torch.Tensor) -> torch.Tensor:
            self.seen = img
            return super().forward(img)

    def shown(rank: int = 0, world: int = 1) -> torch.Tensor:
        rng = BatchRng(5, rank=rank, world_size=world)
        consistency = Consistency(Watcher(), rng, pipe=AugmentPipe(**MILD))  # type: ignore[arg-type]
        classes = torch.zeros(len(img[rank::world]), dtype=torch.int64)
        consistency.charge(img[rank::world], make_labels(classes, 0.5, K), torch.zeros(len(classes), 2))
        return consistency.classifier.seen

    whole = shown()
    assert float((whole - img).abs().max()) > 0.1
    for rank in (0, 1):
        torch.testing.assert_close(shown(rank, 2), whole[rank::2])
    for before, after in zip(img[:, 0], whole[:, 0], strict=True):  # a shift by up to one pixel, and faint noise
        inner = before[2:-2, 2:-2]
        gaps = [
            (after[2 + dy : 30 + dy, 2 + dx : 30 + dx] - inner).abs().mean() for dy in (-1, 0, 1) for dx in (-1, 0, 1)
        ]
        assert min(gaps) < 0.15


@pytest.mark.parametrize(("span", "factor"), [(36.0, 3.0), (16.0, 2.0), (4.0, 1.0), (2.0, 1.0)])
def test_energy_of_a_wide_range_counts_more_often(span: float, factor: float) -> None:
    """Else |v - u| would have no slope to speak of in the logits, which are 4 times a pixel here."""
    middle = -math.log(K)  # of an image that is 0
    measure = Energy(middle - span / 2, middle + span / 2)
    img = torch.zeros(4, K, 1, 1, requires_grad=True)
    charged, _ = asks(measure).charge(img, labels(0.7), Z)
    assert float(charged.detach()) == pytest.approx(0.2 * factor)
    (found,) = torch.autograd.grad(charged, img)
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), torch.full((4,), factor / span * 4 / 4))
