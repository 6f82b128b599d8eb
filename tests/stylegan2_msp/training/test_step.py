"""What a step makes of the losses: weights, intervals, rates of learning and of averaging, by their formulas."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trainers import make_trainer

from stylegan2_msp.data.dataset import flat_weights
from stylegan2_msp.training.step import Trainer

Gradients = dict[str, torch.Tensor]


@pytest.fixture
def moons(moons_archive: Path) -> Trainer:
    return make_trainer(moons_archive, "cpu", gamma=0.6, batch=24, batch_gpu=8)


@pytest.fixture
def digits(digits_archive: Path) -> Trainer:
    return make_trainer(digits_archive, "cpu", batch=16, aug="ada", fp32=True)


def gradients(trainer: Trainer, phase: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Gradients:
    """What a phase would hand to the optimizer."""
    found: Gradients = {}

    def kept(self: Trainer, optimizer: torch.optim.Optimizer) -> None:
        for network in (self.state.G, self.state.D):
            found.update({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})

    monkeypatch.setattr(Trainer, "_update", kept)
    phase()
    return found


def by_hand(network: torch.nn.Module, losses: list[torch.Tensor]) -> Gradients:
    """Gradients of the mean of what the rounds cost."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    grads = torch.autograd.grad(torch.stack(losses).mean(), parameters, allow_unused=True)
    return {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}


def ahead(trainer: Trainer, draw: Callable[[], Any]) -> Any:
    """What a draw gives, without its having been made."""
    state = trainer.state
    rng, order = copy.deepcopy(state.rng.state_dict()), state.order.state_dict()
    found = draw()
    state.rng.load_state_dict(rng)
    state.order.load_state_dict(order)
    return found


def test_r1_weighs_half_gamma_times_its_interval(moons: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    reals = ahead(moons, lambda: list(moons._shown(moons._reals())))
    assert len(reals) == 3
    expected = by_hand(moons.state.D, [0.6 / 2 * 2 * moons.objective.r1(x, told)[0] for x, told in reals])
    torch.testing.assert_close(gradients(moons, moons.r1_phase, monkeypatch), expected)


def test_d_learns_from_fakes_and_reals_of_every_round(moons: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses() -> list[torch.Tensor]:
        found = []
        for x, told in moons._shown(moons._reals()):
            loss = moons.objective.discriminator(x, told, *moons._latents())
            found.append(loss["D_fake"] + loss["D_real"])
        return found

    expected = by_hand(moons.state.D, ahead(moons, losses))
    torch.testing.assert_close(gradients(moons, moons.discriminator_phase, monkeypatch), expected)


def test_path_length_weighs_its_weight_times_its_interval(digits: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    state = digits.state
    state.pl_mean.fill_(0.3)

    def penalised() -> tuple[torch.Tensor, torch.Tensor]:
        z, c, _ = digits._latents()
        return digits.objective.path_length(z[:8], c[:8], state.pl_mean)

    penalty, mean = ahead(digits, penalised)
    expected = by_hand(state.G, [2.0 * 2 * penalty])
    torch.testing.assert_close(gradients(digits, digits.path_length_phase, monkeypatch), expected)
    torch.testing.assert_close(state.pl_mean, mean)


def test_when_phases_come_and_ada_moves(digits: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both regularisers every second step, from the first on; ADA sees reals in D's phases and moves every fourth."""
    came: dict[str, list[int]] = {"path_length_phase": [], "r1_phase": [], "ada": []}
    assert digits.state.ada is not None
    for name in ("generator_phase", "discriminator_phase"):
        monkeypatch.setattr(digits, name, lambda: None)
    for name in ("path_length_phase", "r1_phase"):
        monkeypatch.setattr(digits, name, lambda name=name: came[name].append(digits.state.step))
    monkeypatch.setattr(digits.state.ada, "update", lambda: came["ada"].append(digits.state.nimg))
    for _ in range(9):
        digits.step()
    assert came == {"path_length_phase": [0, 2, 4, 6, 8], "r1_phase": [0, 2, 4, 6, 8], "ada": [4 * 16, 8 * 16]}


def test_ada_observes_reals_of_both_phases_of_d(digits: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digits.state.ada is not None
    for phase, seen in ((digits.generator_phase, 0), (digits.discriminator_phase, 1), (digits.r1_phase, 2)):
        gradients(digits, phase, monkeypatch)
        assert float(digits.state.ada.seen[1]) == seen


def test_the_average_follows_by_the_half_life_of_what_was_shown_before(moons: Trainer) -> None:
    """A twentieth of 10,000 images: half of G_ema is kept over 500 images, of which a batch has 24."""
    state = moons.state
    state.nimg = 10_000
    before = [p.clone() for p in state.G_ema.parameters()]
    for p in state.G.parameters():
        p.data.add_(torch.randn_like(p))
    moons.step()
    beta = 0.5 ** (24 / 500)
    for found, old, new in zip(state.G_ema.parameters(), before, state.G.parameters(), strict=True):
        torch.testing.assert_close(found, beta * old + (1 - beta) * new.detach())
    assert state.nimg == 10_024


def test_lazy_regularisation_corrects_rates_and_betas(digits: Trainer, moons: Trainer) -> None:
    """Karras et al. 2020a, appendix B: k / (k + 1) as the rate's factor and the betas' exponent, here k = 2."""
    config = digits.config
    for optimizer in (digits.state.opt_G, digits.state.opt_D):
        first = optimizer.param_groups[0]
        assert first["lr"] == pytest.approx(config.lrate * 2 / 3)
        assert first["betas"] == pytest.approx((0.0, 0.99 ** (2 / 3)))
    slow = digits.state.opt_G.param_groups[1]
    assert slow["lr"] == pytest.approx(config.lrate * 2 / 3 / 100)
    named = dict(digits.state.G.named_parameters())
    strengths = [p for name, p in named.items() if name.endswith("noise_strength")]
    assert {id(p) for p in slow["params"]} == {id(p) for p in strengths}
    (only,) = moons.state.opt_G.param_groups  # points have no path length regularisation
    assert only["lr"] == pytest.approx(moons.config.lrate)
    assert only["betas"] == (0.0, 0.99)


def test_what_the_configuration_asks_of_the_classifier(moons_archive: Path, digits_archive: Path) -> None:
    asked = {"consistency": 2.5, "consistency_uniform": 0.5, "consistency_class": 3.5, "consistency_share": 0.25}
    found = make_trainer(moons_archive, "cpu", **asked).objective
    assert found.consistency is not None
    assert found.consistency.agreement is not None
    weights = (found.consistency.weight, found.consistency.uniform, found.consistency.class_weight)
    assert (*weights, found.consistency.share) == (2.5, 0.5, 3.5, 0.25)
    off = {"consistency": 0.0, "consistency_class": 0.0, "sharpness": False}
    for given, settled in (({}, 3), (off, 0), ({**off, "sharpness": True}, 3)):
        assert make_trainer(digits_archive, "cpu", **given).objective.settled == settled


def test_augmentation_begins_as_it_is_asked_for(digits: Trainer, digits_archive: Path) -> None:
    fixed = make_trainer(digits_archive, "cpu", aug="fixed", p=0.3).state
    assert fixed.pipe is not None
    assert (float(fixed.pipe.p), fixed.ada) == (pytest.approx(0.3), None)
    ada = digits.state.ada
    assert ada is not None
    assert (float(ada.pipe.p), ada.target) == (0.0, 0.6)
    assert ada.step == pytest.approx(16 * 4 / 1000)  # every fourth batch of 16, from 0 to 1 in 1 kimg


def test_labels_are_flattened_as_far_as_is_asked_for(moons_archive: Path) -> None:
    made = make_trainer(moons_archive, "cpu", flatten=0.4)
    expected = 0.6 / 500 + 0.4 * flat_weights(made.data.labels, 2)
    assert made.state.order.cumulative is not None
    torch.testing.assert_close(made.state.order.cumulative, expected.cumsum(0))
    assert make_trainer(moons_archive, "cpu", flatten=0.0).state.order.cumulative is None


def test_half_of_the_reals_are_mirrored_where_that_is_asked_for(digits: Trainer) -> None:
    assert digits._draw()[2] is None
    digits.data.mirror = True
    flips = torch.stack([digits._draw()[2] for _ in range(60)])  # type: ignore[misc]
    assert float(flips.float().mean()) == pytest.approx(0.5, abs=0.06)


def test_gradients_that_are_no_numbers_do_not_end_a_run(moons: Trainer) -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5])
    moons._update(torch.optim.SGD([parameter], lr=1.0))
    assert parameter.tolist() == [0.0, -1e5, 1e5, -0.5]
    assert parameter.grad is None
