"""Labels of the three distributions, and what observers are shown."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylegan2_msp.classifiers import ClassifierSpec, FrozenClassifier
from stylegan2_msp.classifiers.second import ResidualCNN
from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.generation import load_generator
from stylegan2_msp.metrics.asking import (
    Asked,
    ask_matched,
    ask_natural,
    ask_uniform,
    bins_of,
    half_step,
    uniform_levels,
)
from stylegan2_msp.metrics.observing import Observers, observe_fakes, observe_reals
from stylegan2_msp.search import Search
from stylegan2_msp.uncertainty import Entropy, Msp, Softmax

K = 5
LEVELS = uniform_levels(10)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_levels_begin_at_what_k_classes_allow():
    assert uniform_levels(2) == pytest.approx(np.linspace(0.5, 1, 8))
    assert uniform_levels(10, 3) == pytest.approx([0.3, 0.65, 1.0])
    assert uniform_levels(10, 3, Entropy()) == pytest.approx([0.0, 0.35, 0.7])


@given(st.floats(0, 1))
def test_a_bin_is_the_level_within_half_a_step(u):
    (found,) = bins_of([u], LEVELS)
    distance = np.abs(np.array(LEVELS) - u)
    if found >= 0:
        assert distance[found] <= half_step(LEVELS) + 1e-9
    else:
        assert distance.min() >= half_step(LEVELS) - 1e-9


@pytest.mark.filterwarnings("error")
def test_what_has_no_level_is_in_no_bin():
    assert bins_of([math.nan, LEVELS[0], math.inf, -math.inf], LEVELS).tolist() == [-1, 0, -1, -1]


def test_uniform_is_every_class_at_every_level_with_the_same_latents():
    asked = ask_uniform(K, [0.5, 0.75, 1.0], 100, 4, seeded())
    assert len(asked) == 99
    assert asked.group == 3
    _, counts = asked.labels.unique(dim=0, return_counts=True)
    assert len(counts) == 3 * K
    assert set(counts.tolist()) == {6, 7}
    z, u = asked.z.reshape(33, 3, 4), asked.labels[:, K].reshape(33, 3)
    assert torch.equal(z[:, 0], z[:, 2])
    assert len(z[:, 0].unique(dim=0)) == 33
    torch.testing.assert_close(u, torch.tensor([[0.5, 0.75, 1.0]]).expand(33, 3))
    own = ask_uniform(K, [0.5, 0.75, 1.0], 100, 4, seeded(), shared=False)
    assert own.group == 1
    assert torch.equal(own.labels, asked.labels)
    assert len(own.z.unique(dim=0)) == 99


def test_uniform_labels_of_softmax_vectors_have_the_levels_asked_for():
    measure = Softmax().fitted(torch.randn(50, 3), torch.arange(50) % 3)
    labels = ask_uniform(3, [0.2, 0.9], 12, 2, seeded(), measure).labels
    assert labels.shape == (12, 6)
    torch.testing.assert_close(labels[:, 3:].sum(1), torch.ones(12))
    cells = {(int(row[:3].argmax()), round(float(row[3:] @ row[:3]), 4)) for row in labels}
    assert cells == {(k, u) for k in range(3) for u in (0.2, 0.9)}


def test_natural_draws_real_labels_in_their_proportion():
    real = make_labels(torch.tensor([0, 1, 1, 1]), torch.tensor([0.4, 0.6, 0.8, 1.0]), 2)
    asked = ask_natural(real, 4000, 2, seeded())
    rows, counts = asked.labels.unique(dim=0, return_counts=True)
    assert torch.equal(rows.unique(dim=0), real.unique(dim=0))
    assert (counts / 4000 - 0.25).abs().max() < 0.03


def test_matched_takes_as_many_labels_of_each_bins_reals_and_skips_empty_bins():
    u = torch.tensor([0.31, 0.28, 0.52, 1.0, 0.99, 0.97, 0.1])
    real = make_labels(torch.arange(7) % 10, u, 10)
    asked = ask_matched(real, 10, LEVELS, 800, 3, seeded())
    bins = bins_of(asked.labels[:, 10], LEVELS)
    assert np.bincount(bins, minlength=8).tolist() == [100, 0, 100, 0, 0, 0, 0, 100]
    known = {tuple(row.tolist()) for row in real}
    assert {tuple(row.tolist()) for row in asked.labels} <= known - {tuple(real[6].tolist())}


class Picture(torch.nn.Module):
    """A generator of constant pictures."""

    z_dim, c_dim = 2, 3

    def __init__(self, value):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))

    def mapping(self, z, c, truncation_psi=1, skip_w_avg_update=False):
        assert c.shape[1] == self.c_dim
        return c

    def synthesis(self, ws, noise_mode, rng):
        assert noise_mode == "random"
        return self.value.expand(len(ws), 1, 4, 4)


@pytest.mark.parametrize(("value", "shown"), [(3.0, 1.0), (-7.0, -1.0), (0.0011, 128 / 127.5 - 1)])
def test_pictures_are_shown_as_their_files_will_be(value, shown):
    seen = []

    def answer(x, classes):
        seen.append((x, classes))
        return classes, torch.full((len(x),), 0.7)

    classifier = SimpleNamespace(num_classes=2, measure=Msp(), answer=answer)
    asked = Asked(make_labels([1, 0, 1], [0.5, 0.6, 0.7], 2), torch.zeros(3, 2), 0)
    items = observe_fakes(Picture(value), Observers(classifier), asked, batch=2)
    assert [len(x) for x, _ in seen] == [2, 1]
    assert float(seen[0][0].max()) == pytest.approx(shown, abs=1e-6)
    assert items.classes.tolist() == items.predicted.tolist() == [1, 0, 1]
    assert items.asked == pytest.approx([0.5, 0.6, 0.7])
    assert items.answered == pytest.approx([0.7] * 3)


@pytest.mark.parametrize("search", [None, Search(0.05), Search(0.05, 3)])
def test_noise_belongs_to_the_latent_and_not_to_its_place_in_a_batch(search):
    seen = []

    class Noise(Picture):
        def synthesis(self, ws, noise_mode, rng):
            return rng.randn(len(ws), 1, 4, 4) / 4

    def answer(x, classes):
        seen.append(x)
        return classes, torch.full((len(x),), 0.7)

    classifier = SimpleNamespace(num_classes=2, measure=Msp(), answer=answer)
    asked = Asked(make_labels([0] * 6, [0.7] * 6, 2), torch.zeros(6, 2), 5, group=2)
    pictures = []
    for batch in (6, 4, 1):
        observe_fakes(Noise(0.0), Observers(classifier), asked, batch=batch, search=search)
        looked = seen[:: 1 if search is None else 2]  # the search looks as well
        pictures.append(torch.cat(looked))
        seen.clear()
    first = pictures[0]
    assert all(torch.equal(first, other) for other in pictures[1:])
    assert torch.equal(first[::2], first[1::2])
    assert len(first[::2].flatten(1).unique(dim=0)) == 3


def test_noise_and_redrawn_latents_are_of_the_evaluation_s_seed():
    """Another seed, and another distribution of the same seed, draw anew; the same ones draw the same."""
    seen = []

    class Copy(Picture):
        def mapping(self, z, c, **_):
            seen.append(z.clone())
            return z

        def synthesis(self, ws, noise_mode, rng):
            return rng.randn(len(ws), 1, 4, 4) / 4

    classifier = SimpleNamespace(num_classes=2, measure=Msp(), answer=lambda x, c: (c, torch.full((len(x),), 0.3)))
    labels = make_labels([0] * 4, [0.7] * 4, 2)

    def drawn(rng, ask):
        asked = ask(labels, rng)
        observe_fakes(Copy(0.0), Observers(classifier), asked, search=Search(0.05, 2))
        return seen[-1][:, 2:]

    def natural(labels, rng):
        return ask_natural(labels, 4, 6, rng)

    first, again, other = (drawn(seeded(seed), natural) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    rng = seeded(0)
    assert not torch.isclose(drawn(rng, natural), drawn(rng, natural)).any()


def test_a_class_only_generator_is_given_the_one_hot_alone():
    G = Picture(0.0)
    G.c_dim = 2
    classifier = SimpleNamespace(num_classes=2, measure=Msp(), answer=lambda x, c: (c, torch.ones(len(x))))
    observe_fakes(G, Observers(classifier), Asked(make_labels([1], [0.5], 2), torch.zeros(1, 2), 0))


def test_truncation_draws_items_to_the_centre_of_their_label(points_snapshot):
    """At psi 0 nothing but the label is left of an item."""
    generator = load_generator(points_snapshot)
    labels = make_labels([0, 0, 0, 1, 1, 1], [0.6, 0.9, 0.9, 0.6, 0.6, 0.9], 2)
    asked = Asked(labels, torch.randn(6, generator.G.z_dim, generator=seeded()), 0)
    for psi, alike in ((1.0, 6), (0.0, 4)):
        items = observe_fakes(generator.G, Observers(generator.classifier), asked, truncation_psi=psi)
        assert len(np.unique(items.features.round(4), axis=0)) == alike


def test_features_are_what_enters_the_second_classifiers_last_layer(frozen_cnn):
    torch.manual_seed(1)
    args = {"width": 4, "hidden": 8}
    spec = ClassifierSpec("residual", "images", 10, 1, 16, 1, 16, arch_args=args)
    second = FrozenClassifier(spec, ResidualCNN(16, 1, 10, **args))
    data = torch.randint(0, 256, (9, 1, 16, 16), dtype=torch.uint8).numpy()
    classes = np.arange(9)
    items = observe_reals(data, classes, np.full(9, 0.5), Observers(frozen_cnn, second, unit=2.0), batch=4)
    assert items.features.shape == (9, 8)
    x = torch.from_numpy(data).float() / 127.5 - 1
    logits = second.net.head(torch.from_numpy(items.features) * 2)
    torch.testing.assert_close(logits, second(x))
    assert items.second_predicted.tolist() == second(x).argmax(1).tolist()
    assert items.second_answered == pytest.approx(second.probs(x).amax(1).numpy())
    assert items.answered == pytest.approx(frozen_cnn.probs(x).amax(1).numpy(), abs=1e-6)
    part = items.take(np.array([3, 3, 1]))
    assert np.array_equal(part.features[0], items.features[3])
    assert (part.classes.tolist(), part.kinds) == ([3, 3, 1], None)
