"""The figures of merit against known answers, and generators whose match is known beforehand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.metrics import condition as m
from stylegan2_msp.uncertainty import Entropy, Msp, Softmax

K = 5


class StandIn(torch.nn.Module):
    """A generator whose items are (class, MSP) pairs, as a function of the label alone."""

    def __init__(self, answer, z_dim=3):
        super().__init__()
        self.z_dim = z_dim
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answer = answer
        self.seen = []

    def mapping(self, z, c, truncation_psi=1, truncation_cutoff=None, skip_w_avg_update=False):
        assert skip_w_avg_update
        assert not torch.is_grad_enabled()
        self.seen.append(z)
        return c

    def synthesis(self, ws, noise_mode="random", rng=None):
        assert noise_mode == "const"
        cls, u = ws[:, :K].argmax(dim=1), ws[:, K]
        return torch.stack(self.answer(cls, u), dim=1)


reader = SimpleNamespace(num_classes=K, measure=Msp(), answer=lambda x, classes: (x[:, 0].long(), x[:, 1]))


def natural(n=400):
    rng = np.random.default_rng(0)
    return make_labels(torch.from_numpy(rng.integers(0, K, n)), torch.from_numpy(rng.uniform(0.3, 1, n)), K)


def measure(answer, n=400, seed=0, **kwargs):
    return m.measure_condition(
        StandIn(answer), reader, natural(), n=n, generator=torch.Generator().manual_seed(seed), **kwargs
    )


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


def test_uneven_count_is_kept_and_spread():
    labels = m.uniform_labels(K, [0.5, 0.75, 1.0], 100, torch.Generator().manual_seed(0))
    assert labels.shape == (100, K + 1)
    _, counts = labels.unique(dim=0, return_counts=True)
    assert len(counts) == 3 * K
    assert set(counts.tolist()) == {6, 7}


def test_same_generator_seed_same_figures_and_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    one = measure(lambda cls, u: (cls.float(), u.sqrt()), seed=3)
    two = measure(lambda cls, u: (cls.float(), u.sqrt()), seed=3, batch=7)
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


def test_images_are_clamped_before_the_classifier_sees_them():
    class Loud(StandIn):
        def synthesis(self, ws, noise_mode="random", rng=None):
            return torch.full((len(ws), 1, 4, 4), 3.0)

    seen = []

    def answer(x, classes):
        seen.append(x)
        return torch.zeros(len(x), dtype=torch.int64), torch.ones(len(x))

    look = SimpleNamespace(num_classes=K, answer=answer)
    m.collect_answers(Loud(None), look, natural(10), torch.Generator().manual_seed(0))
    assert seen[0].max() == 1


def test_levels_begin_at_what_k_classes_allow():
    assert m.uniform_levels(2) == pytest.approx(np.linspace(0.5, 1, 8))
    assert m.uniform_levels(10, 3) == pytest.approx([0.3, 0.65, 1.0])
    assert m.uniform_levels(10, 3, Entropy()) == pytest.approx([0.0, 0.35, 0.7])


def test_uniform_labels_of_softmax_vectors_have_the_levels_asked_for():
    measure = Softmax().fitted(torch.randn(50, 3), torch.arange(50) % 3)
    labels = m.uniform_labels(3, [0.2, 0.9], 12, torch.Generator().manual_seed(0), measure)
    assert labels.shape == (12, 6)
    torch.testing.assert_close(labels[:, 3:].sum(1), torch.ones(12))
    cells = {(int(row[:3].argmax()), round(float(row[3:] @ row[:3]), 4)) for row in labels}
    assert cells == {(k, u) for k in range(3) for u in (0.2, 0.9)}


def test_spearman_is_rank_correlation_with_ties():
    rng = np.random.default_rng(1)
    u = rng.integers(0, 5, 200) / 5
    v = u + rng.normal(0, 0.3, 200)
    ranks = stats.rankdata(u), stats.rankdata(v)
    assert m.spearman(u, v) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert m.spearman(u, np.exp(v)) == pytest.approx(m.spearman(u, v))
    assert math.isnan(m.spearman([0.5], [0.6]))


def test_errors_by_hand():
    u, v = [0.5, 0.7, 1.0], [0.6, 0.6, 1.0]
    assert m.mae(u, v) == pytest.approx(0.2 / 3)
    assert m.bias(u, v) == pytest.approx(0)
    assert m.class_agreement([1, 2, 3, 3], [1, 2, 0, 3]) == 0.75
    assert math.isnan(m.mae([], []))
    with pytest.raises(ValueError, match="equally long"):
        m.mae([1.0], [1.0, 0.5])


def test_per_level_statistics():
    u = np.float32([0.7] * 5 + [0.3] * 3)
    v = np.array([0.1, 0.2, 0.3, 0.4, 1.0, 0.5, 0.5, 0.5])
    low, high = m.per_level(u, v)
    assert (low.level, low.count, low.mean, low.median) == (0.3, 3, 0.5, 0.5)
    assert (high.level, high.count) == (0.7, 5)
    assert high.mean == pytest.approx(0.4)
    assert high.median == pytest.approx(0.3)
    assert (high.q25, high.q75) == pytest.approx((0.2, 0.4))
    assert (high.q10, high.q90) == pytest.approx((0.14, 0.76))


def test_bootstrap_interval_covers_the_mean_error_and_narrows():
    rng = np.random.default_rng(0)
    u = rng.uniform(0.3, 1, 2000)
    v = u + rng.normal(0, 0.1, 2000)
    low, high = m.bootstrap_interval(m.mae, u, v)
    truth = 0.1 * math.sqrt(2 / math.pi)
    assert low < truth < high
    few = m.bootstrap_interval(m.mae, u[:100], v[:100])
    assert high - low < 0.5 * (few[1] - few[0])
    assert m.bootstrap_interval(m.mae, u, v) == (low, high)
    assert all(math.isnan(x) for x in m.bootstrap_interval(m.spearman, u, np.ones(2000), count=5))
