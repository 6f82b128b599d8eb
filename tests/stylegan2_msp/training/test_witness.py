"""The witness: what is wanted of fakes by a literal count, what is charged, how it is made, and when it is asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from trainers import make_trainer, statistics

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.classifiers.builtin import StridedCNN
from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.config import DataInfo, resolve
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.errors import UserError
from stylegan2_msp.training import step
from stylegan2_msp.training.checkpoint import restore, save_state
from stylegan2_msp.training.witness import Witness, make_witness, recall_witness

K = 3


class Grey(torch.nn.Module):
    """Gives an image's class 0 its mean brightness, moved into [0, 1], as probability, and class 1 the rest."""

    num_classes = K

    def probs(self, x: torch.Tensor) -> torch.Tensor:
        p = (x.flatten(1).mean(dim=1) + 1) / 2
        return torch.stack([p, 1 - p, torch.zeros_like(p)], dim=1)


def made_witness(n: int = 600, named: bool = True) -> tuple[Witness, torch.Tensor]:
    """One of random reals of classes 0 and 1, f naming nine of ten right, and their labels."""
    rng = torch.Generator().manual_seed(0)
    labels = make_labels(torch.randint(0, 2, (n,), generator=rng), torch.rand(n, generator=rng), K)
    right = torch.rand(n, generator=rng) < 0.9 if named else None
    network: Any = Grey()
    return Witness(network, torch.rand(n, generator=rng), labels, right, 1.0), labels


@pytest.mark.parametrize("named", [True, False])
def test_wanted_is_a_number_of_each_real_alike_equally_often(named: bool) -> None:
    witness, labels = made_witness(named=named)
    steps = 64 * 63
    place = (torch.arange(steps) + 0.5) / steps
    for row in range(0, 600, 97):
        near = witness.neighbours.of(labels[row : row + 1])[0]
        for right in (True, False) if named else (None,):
            flags = None if right is None else torch.full((steps,), right)
            found = Counter(witness.wanted(labels[row].expand(steps, -1), place, flags).tolist())
            alike = near if witness.named_right is None else near[witness.named_right[near] == right]
            counted = alike if len(alike) else near  # of the ends of a class some stand twice
            expected = Counter(witness.values[counted].tolist())
            assert found.keys() == expected.keys()
            for value, times in expected.items():
                assert found[value] == pytest.approx(steps * times / len(counted), abs=times)
            assert list(found) == sorted(found)  # place says which of them, from the least known on


def test_where_no_real_near_is_named_so_any_counts() -> None:
    witness, labels = made_witness()
    assert witness.named_right is not None
    witness.named_right[:] = True
    found = witness.wanted(labels[:1], torch.tensor([0.999]), torch.tensor([False]))
    assert found == witness.values[witness.neighbours.of(labels[:1])].max()
    assert witness.wanted(make_labels([2], [0.5], K), torch.tensor([1.0]), torch.tensor([True])).isfinite()  # no reals


def test_charge_is_the_mean_distance_and_pulls_images_there() -> None:
    witness, labels = made_witness()
    c, z, right = labels[:16], torch.randn(16, 5, generator=torch.Generator().manual_seed(1)), torch.ones(16) > 0
    img = torch.zeros(16, 1, 4, 4, requires_grad=True)  # every class has 1/2
    wanted = witness.wanted(c, torch.special.ndtr(z[:, 2]), right)
    charge = witness.charge(img, c, z, right)
    assert float(charge.detach()) == pytest.approx(float((wanted - 0.5).abs().mean()), abs=1e-6)
    optimizer = torch.optim.SGD([img], lr=0.5)
    for _ in range(600):
        optimizer.zero_grad()
        (16 * witness.charge(img, c, z, right)).backward()
        optimizer.step()
    p = witness.network.probs(img.detach().clamp(-1, 1)).gather(1, c[:, :K].argmax(dim=1)[:, None])[:, 0]
    assert (p - wanted).abs().max() < 0.05


@pytest.fixture(scope="module")
def data(digits_archive: Path) -> TrainingSet:
    return TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))


@pytest.fixture(scope="module")
def kept(data: TrainingSet) -> dict[str, torch.Tensor]:
    found = make_witness(data, 10)
    assert found is not None
    return found


def test_it_is_asked_about_reals_that_it_was_not_trained_on(
    data: TrainingSet, kept: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = FrozenClassifier.from_bytes(kept["network"].numpy().tobytes())
    assert network.spec.arch == "strided"
    rows = kept["rows"]
    classes = data.labels[:, :10].argmax(dim=1)
    assert len(rows) == len(rows.unique()) == len(data) // 2
    halves = [torch.bincount(part, minlength=10) for part in (classes, classes[rows])]
    assert (halves[0] - 2 * halves[1]).abs().max() <= 1  # of every class as many
    said = network.probs(data.reals(rows)).gather(1, classes[rows][:, None])[:, 0]
    torch.testing.assert_close(kept["values"], said.detach())
    images = data.data
    assert isinstance(images, torch.Tensor)
    others = images.clone()
    others[rows] = 255 - others[rows]
    monkeypatch.setattr(data, "data", others)
    again = make_witness(data, 10)
    assert again is not None
    assert torch.equal(again["network"], kept["network"])  # the same seed, and the other half is not looked at
    assert not torch.equal(again["values"], kept["values"])


def test_images_that_cannot_be_read_are_left_out(data: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, damaged = data.stored, (0, 7, 11)

    def stored(index: torch.Tensor) -> torch.Tensor:
        if any(bool((index == row).any()) for row in damaged):
            raise UserError("damaged")
        return whole(index)

    monkeypatch.setattr(data, "stored", stored)
    found = make_witness(data, 10)
    assert found is not None
    assert not set(found["rows"].tolist()) & set(damaged)
    assert len(found["rows"]) >= len(data) // 2 - len(damaged)


@pytest.mark.slow
def test_it_learns_the_classes(kept: dict[str, torch.Tensor]) -> None:
    assert (kept["values"] > 0.5).double().mean() > 0.8


def test_of_too_few_images_there_is_none(digits_archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"), subset=1)
    assert make_witness(few, 10) is None
    assert "There is none" in capsys.readouterr().out


def test_a_run_that_asks_none_makes_none(digits_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "make_witness", lambda *_: pytest.fail("made"))
    for given in ({"kimg": 0.2}, {"consistency_witness": 0.0}, {"consistency": 0.0}, {"z_dim": 2}):
        trainer = make_trainer(digits_archive, "cpu", **{"kimg": 1.0, **given})
        trainer.call_witness()
        assert trainer.objective.witness is None


@pytest.mark.slow
def test_a_state_carries_it_and_goes_on_to_the_bit(
    digits_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"consistency_kimg": 0.0, "fp32": True, "batch": 8}
    trainer = make_trainer(digits_archive, "cpu", **given)
    trainer.call_witness()
    first = statistics(trainer, 2)
    assert all(found["witness"] > 0 for found in first)
    path = save_state(tmp_path, trainer.state, trainer.config)
    expected = statistics(trainer, 2)
    monkeypatch.setattr(step, "make_witness", lambda *_: pytest.fail("made again"))
    again = make_trainer(digits_archive, "cpu", **given)
    restore(path, again.state)
    again.call_witness()
    assert statistics(again, 2) == expected
    assert again.objective.witness is not None
    assert trainer.objective.witness is not None
    assert torch.equal(again.objective.witness.values, trainer.objective.witness.values)


def test_its_share_of_the_loss(digits_archive: Path, kept: dict[str, torch.Tensor]) -> None:
    """The third number of z is the place, the first says what f is to answer; its strength is that of the others."""
    trainer = make_trainer(digits_archive, "cpu", fp32=True, style_mixing=0.0)
    objective, n = trainer.objective, 8
    objective.witness = witness = recall_witness(kept, trainer.data, 0.25)
    objective.style_mixing, objective.augment, objective.diversity = 0.0, None, None
    asks = objective.consistency
    assert asks is not None
    z, c = torch.randn(n, objective.G.z_dim), trainer.data.labels[:n]
    seen: dict[str, torch.Tensor] = {}
    objective.discriminate = lambda img, told: seen.setdefault("img", img).mean(dim=(1, 2, 3))[:, None]  # type: ignore[method-assign]
    losses = objective.generator(z, c, c, strength=0.5)
    named_right = torch.special.ndtr(z[:, 0]) < asks.agreement(c[:, 10], c[:, :10].argmax(dim=1))  # type: ignore[misc]
    charge = witness.charge(seen["img"], c, z, named_right)
    torch.testing.assert_close(losses["witness"], 0.5 * 0.25 * charge, rtol=1e-5, atol=0)
    assert "witness" not in objective.generator(z, c, c)


def resolved(kind: str = "images", u_size: int = 1, **given: Any) -> float:
    info = DataInfo(kind, 0 if kind == "points" else 32, 1, 10, True, u_size)
    return resolve({"data": "x.zip", "cond_msp": True, **given}, info, 1, "cpu", False).consistency_witness


def test_options() -> None:
    assert resolved() == pytest.approx(0.3)
    assert resolved(consistency=1.0) == pytest.approx(0.15)
    assert resolved(consistency=0.0) == resolved("points") == resolved(u_size=10) == 0
    assert resolved(consistency_witness=1.5) == 1.5
    with pytest.raises(UserError, match="--consistency-witness: is for images"):
        resolved("points", consistency_witness=1.0)
    with pytest.raises(UserError, match="--consistency-witness: needs one number"):
        resolved(u_size=10, consistency_witness=1.0)
    with pytest.raises(UserError, match="--consistency-witness: needs the MSP"):
        resolved(consistency_witness=1.0, cond_msp=False, cond=True)


@pytest.mark.parametrize(("size", "channels"), [(4, 1), (8, 1), (16, 3), (32, 1), (128, 3)])
def test_its_network_takes_images_of_every_size(size: int, channels: int) -> None:
    net = StridedCNN(size, channels, 7, width=4, hidden=8)
    strides = [layer.stride[0] for layer in net.features if isinstance(layer, torch.nn.Conv2d)]
    assert size // torch.tensor(strides).prod() == min(size, 8)
    x = torch.rand(3, channels, size, size)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]), rtol=1e-4, atol=1e-5)
    assert net(x).shape == (3, 7)
