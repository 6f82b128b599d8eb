"""What D is told, and which samples stand for it, against searches through all samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.data.dataset import SampleOrder
from stylegan2_msp.training.labels import LabelDraws, Vicinity
from torch_utils_ext.rng import BatchRng

K = 3


def rows(u_dim: int = 1) -> torch.Tensor:
    rng = np.random.RandomState(0)
    classes = np.repeat([0, 1, 2], [300, 150, 50])
    u = np.where(rng.rand(500) < 0.6, rng.uniform(0.97, 1, 500), rng.uniform(0.34, 0.97, 500))
    p = np.stack([u, (1 - u) / 3, (1 - u) * 2 / 3], axis=1)
    return make_labels(classes.tolist(), torch.tensor(u if u_dim == 1 else p), K)


def draws(labels: torch.Tensor, rank: int = 0, world: int = 1, flatten: float = 0.5, **options: object) -> LabelDraws:
    rng = BatchRng(7, rank=rank, world_size=world)
    return LabelDraws(labels, K, SampleOrder(labels, K, flatten, seed=1), rng, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("flatten", [0.0, 0.5])
def test_without_options_d_is_told_the_sample_s_own_label_and_no_number_more_is_drawn(flatten: float) -> None:
    labels = rows()
    drawn = draws(labels, flatten=flatten)
    order, rng = SampleOrder(labels, K, flatten, seed=1), BatchRng(7)
    for _ in range(3):
        index, told = drawn.reals(8)
        expected = order.reals(8, rng)
        assert torch.equal(index, expected)
        assert torch.equal(told, labels[expected])
        c, told = drawn.fakes(8)
        assert torch.equal(c, labels[order.labels_of_fakes(8, rng)])
        assert torch.equal(told, c)
    assert torch.equal(drawn.rng.state_dict()["generator"], rng.state_dict()["generator"])


@pytest.mark.parametrize("u_dim", [1, K])
def test_label_noise_is_gaussian_on_u_alone_and_g_does_not_get_it(u_dim: int) -> None:
    labels = rows(u_dim)
    drawn = draws(labels, label_noise=0.05)
    index, told = drawn.reals(20_000)
    for own, noisy in ((labels[index], told), drawn.fakes(20_000)):
        assert torch.equal(own[:, :K], noisy[:, :K])
        noise = (noisy - own)[:, K:]
        assert noise.shape[1] == u_dim
        assert float(noise.mean()) == pytest.approx(0, abs=2e-3)
        assert float(noise.std()) == pytest.approx(0.05, rel=0.02)
        assert float((noise.abs() < 0.05).float().mean()) == pytest.approx(0.6827, abs=0.01)
    assert torch.equal(labels, rows(u_dim)), "the data's labels were written to"


def test_automatic_noise_is_silvermans() -> None:
    labels = rows()
    u = labels[:, K].double().numpy()
    assert float(draws(labels, label_noise="auto").noise.sigma) == pytest.approx(
        1.06 * u.std(ddof=1) * 500**-0.2, rel=1e-5
    )


def test_the_vicinity_is_that_of_a_search_through_all_samples() -> None:
    labels = rows()
    classes, u = labels[:, :K].argmax(dim=1), labels[:, K]
    vicinity = Vicinity(classes, u)
    generator = torch.Generator().manual_seed(0)
    for kappa in (0.001, 0.02, 1.0):
        wanted = torch.randint(K, (300,), generator=generator)
        asked = torch.rand(300, generator=generator) * 1.6 - 0.3  # beyond [0, 1] on both sides
        found = vicinity.pick(wanted, asked, kappa, torch.rand(300, generator=generator))
        for k, t, row in zip(wanted, asked.double(), found, strict=True):
            distance = torch.where(classes == k, (u.double() - t).abs(), torch.inf)
            assert classes[row] == k
            assert distance[row] <= max(kappa, float(distance.min())) + 1e-9


def test_everyone_in_the_vicinity_is_equally_likely() -> None:
    u = torch.tensor([0.5, 0.52, 0.54, 0.9, 0.53])
    vicinity = Vicinity(torch.tensor([0, 0, 0, 0, 1]), u)
    place = (torch.arange(3000) + 0.5) / 3000
    found = vicinity.pick(torch.zeros(3000, dtype=torch.int64), torch.full((3000,), 0.52), 0.025, place)
    assert torch.bincount(found, minlength=5).tolist() == [1000, 1000, 1000, 0, 0]


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_vicinal_reals_and_fakes_lie_around_what_d_is_told(noise: float) -> None:
    labels, kappa = rows(), 0.05
    drawn = draws(labels, label_noise=noise, vicinal=kappa)
    index, told = drawn.reals(5000)
    real = labels[index]
    assert torch.equal(real[:, :K], told[:, :K])
    inside = (real[:, K] - told[:, K]).abs() <= kappa + 1e-6
    assert float(inside.float().mean()) > 0.95
    assert noise > 0 or bool(inside.all())
    c, told = drawn.fakes(5000)
    assert torch.equal(c[:, :K], told[:, :K])
    assert float(c[:, K].min()) >= 0
    assert float(c[:, K].max()) <= 1
    apart = (c - told)[:, K]
    free = (told[:, K] + kappa < 1) & (told[:, K] > kappa)
    assert float(apart[free].abs().max()) <= kappa + 1e-6
    assert float(apart[free].std()) == pytest.approx(kappa / 3**0.5, rel=0.05)  # uniform
    outside = torch.isin(told[:, K], labels[:, K], invert=True)
    assert bool(outside.any()) == (noise > 0)


def test_two_processes_draw_the_batch_of_one() -> None:
    labels = rows()
    options: dict[str, object] = {"label_noise": 0.03, "vicinal": 0.05}
    alone = draws(labels, **options)
    whole = [(alone.reals(8), alone.fakes(8)) for _ in range(3)]
    for rank in (0, 1):
        drawn = draws(labels, rank, 2, **options)
        for reals, fakes in whole:
            for mine, all_of_them in zip((*drawn.reals(4), *drawn.fakes(4)), (*reals, *fakes), strict=True):
                assert torch.equal(mine, all_of_them[rank::2])


@pytest.mark.parametrize("noise", [{"vicinal": 0.1}, {"label_noise": 0.1}, {}])
def test_twins_share_what_g_is_given_and_what_d_is_told(noise: dict[str, float]) -> None:
    given, told = draws(rows(), **noise).fakes(32, twins=True)
    assert torch.equal(given[:16], given[16:])
    assert torch.equal(told[:16], told[16:])
    assert len(given.unique(dim=0)) > 8
