"""Generators whose match with the condition is known beforehand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.metrics import condition as m
from stylegan2_msp.metrics.quality import diversity
from stylegan2_msp.uncertainty import Msp

K = 5


class StandIn(torch.nn.Module):
    """A generator whose items are (class, MSP) pairs, as a function of the label alone."""

    def __init__(self, answer, z_dim=3):
        super().__init__()
        self.z_dim, self.c_dim = z_dim, K + 1
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answer = answer
        self.seen = []

    def mapping(self, z, c, truncation_psi=1, truncation_cutoff=None, skip_w_avg_update=False):
        assert skip_w_avg_update
        assert not torch.is_grad_enabled()
        self.seen.append(z)
        return c

    def synthesis(self, ws, noise_mode="random", rng=None):
        assert noise_mode == "random"
        cls, u = ws[:, :K].argmax(dim=1), ws[:, K]
        return torch.stack(self.answer(cls, u), dim=1)


reader = SimpleNamespace(num_classes=K, measure=Msp(), answer=lambda x, classes: (x[:, 0].long(), x[:, 1]))


def natural(n=400):
    rng = np.random.default_rng(0)
    return make_labels(torch.from_numpy(rng.integers(0, K, n)), torch.from_numpy(rng.uniform(0.3, 1, n)), K)


def measure(answer, n=400, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return m.measure_condition(StandIn(answer), reader, natural(), n=n, generator=generator, **kwargs)


def test_perfect_generator():
    figures = measure(lambda cls, u: (cls.float(), u))
    assert figures.natural_spearman == pytest.approx(1)
    assert figures.uniform_spearman == pytest.approx(1)
    assert figures.natural_mae == figures.uniform_mae == 0
    assert figures.natural_class_agreement == figures.uniform_class_agreement == 1


def test_blind_generator_has_no_rank_correlation_and_chance_agreement():
    figures = measure(lambda cls, u: (torch.zeros_like(u), torch.full_like(u, 0.65)))
    assert math.isnan(figures.natural_spearman)
    assert math.isnan(figures.uniform_spearman)
    assert figures.uniform_class_agreement == pytest.approx(1 / K)
    assert figures.uniform_mae == pytest.approx(np.abs(np.linspace(0.3, 1, 8) - 0.65).mean(), abs=1e-6)
    assert figures.to_dict()["uniform_spearman"] is None


def test_inverted_generator():
    figures = measure(lambda cls, u: ((cls + 1).float() % K, 1.3 - u))
    assert figures.natural_spearman == pytest.approx(-1)
    assert figures.uniform_spearman == pytest.approx(-1)
    assert figures.uniform_mae == pytest.approx(np.abs(1.3 - 2 * np.linspace(0.3, 1, 8)).mean(), abs=1e-6)
    assert figures.natural_class_agreement == figures.uniform_class_agreement == 0


def test_same_generator_seed_same_figures_and_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    one = measure(lambda cls, u: (cls.float(), u.sqrt()), seed=3, real_diversity=1.0)
    two = measure(lambda cls, u: (cls.float(), u.sqrt()), seed=3, batch=7, real_diversity=1.0)
    other = measure(lambda cls, u: (cls.float(), u.sqrt()), seed=4)
    assert one == two
    assert one.natural_mae != other.natural_mae
    assert torch.equal(before, torch.get_rng_state())


def test_latents_come_from_the_given_generator_and_differ():
    G = StandIn(lambda cls, u: (cls.float(), u))
    m.measure_condition(G, reader, natural(), n=64, generator=torch.Generator().manual_seed(0), batch=64)
    natural_z, uniform_z = G.seen
    assert natural_z.shape == uniform_z.shape == (64, 3)
    assert not torch.equal(natural_z, uniform_z)
    assert abs(natural_z.mean()) < 0.3
    assert torch.equal(uniform_z[0], uniform_z[7])  # the same latent at all eight levels
    assert not torch.equal(uniform_z[0], uniform_z[8])


def test_diversity_is_that_of_the_reals_for_a_perfect_generator_and_none_for_one_that_repeats_itself():
    labels = natural()
    classes = labels[:, :K].argmax(dim=1)
    spread = diversity(torch.stack([classes.float(), labels[:, K]], dim=1).numpy(), classes.numpy())
    assert spread == pytest.approx(0.7 / 3, rel=0.1)  # two uniform numbers are a third of the range apart
    perfect = measure(lambda cls, u: (cls.float(), u), n=3000, real_diversity=spread)
    assert perfect.natural_diversity == pytest.approx(1, abs=0.03)
    halved = measure(lambda cls, u: (cls.float(), u / 2), n=3000, real_diversity=spread)
    assert halved.natural_diversity == pytest.approx(0.5, abs=0.02)
    repeated = measure(lambda cls, u: (cls.float(), torch.full_like(u, 0.9)), real_diversity=spread)
    assert repeated.natural_diversity == pytest.approx(0, abs=1e-6)
    assert math.isnan(measure(lambda cls, u: (cls.float(), u)).natural_diversity)  # the reals' is not known
