"""ADA's controller, the averaged weights and the order of samples against known answers."""

import numpy as np
import pytest
import torch

from stylegan2_msp.augment import AugmentPipe
from stylegan2_msp.conditioning import make_labels, split_labels
from stylegan2_msp.data.dataset import SampleOrder, flat_weights
from stylegan2_msp.training.ada import AdaController
from stylegan2_msp.training.ema import Average, ema_beta
from torch_utils_ext.rng import BatchRng


def test_ada_walks_from_zero_to_one_in_its_kimg_and_back():
    pipe = AugmentPipe(xflip=1)
    pipe.p.fill_(0)
    ada = AdaController(pipe, target=0.6, kimg=8, interval=4, batch=20)  # a step is 20 * 4 / 8000 = 0.01
    for _ in range(50):
        ada.observe(torch.tensor(1.0))
        ada.observe(torch.tensor(0.4))  # mean 0.7 > 0.6
        ada.update()
    assert float(pipe.p) == pytest.approx(0.5, abs=1e-5)
    for _ in range(80):
        ada.observe(torch.tensor(0.1))
        ada.update()
    assert float(pipe.p) == 0.0


def test_ada_stands_still_on_target_and_without_observations():
    pipe = AugmentPipe(xflip=1)
    pipe.p.fill_(0.25)
    ada = AdaController(pipe, target=0.5, kimg=8, interval=4, batch=20)
    ada.update()
    ada.observe(torch.tensor(0.5))
    ada.update()
    assert float(pipe.p) == pytest.approx(0.25)


def test_ada_never_raises_p_above_one():
    pipe = AugmentPipe(xflip=1)
    pipe.p.fill_(0.995)
    ada = AdaController(pipe, target=0.6, kimg=8, interval=4, batch=20)
    for _ in range(3):
        ada.observe(torch.tensor(1.0))
        ada.update()
    assert float(pipe.p) == 1.0


def test_ema_half_life():
    """After ema_kimg thousand images half of the old value is left."""
    average, current = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(average.weight, 1.0)
    torch.nn.init.constant_(current.weight, 0.0)
    kept = Average(average, current)
    for _ in range(100):
        kept.update(ema_beta(nimg=10**9, batch=50, ema_kimg=5, rampup=None))
    assert average.weight.item() == pytest.approx(0.5, rel=1e-4)


def test_ema_ramps_up_and_copies_buffers():
    assert ema_beta(nimg=0, batch=32, ema_kimg=10, rampup=0.05) == 0.0
    assert ema_beta(nimg=20_000, batch=32, ema_kimg=10, rampup=0.05) == pytest.approx(0.5 ** (32 / 1000))
    average, current = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    current.running_mean.fill_(3)
    Average(average, current).update(0.9)
    assert average.running_mean.tolist() == [3, 3]


def labels_with_rare_levels():
    rng = np.random.RandomState(0)
    classes = np.repeat([0, 1, 2], [600, 300, 100])
    msp = np.where(rng.rand(1000) < 0.9, 0.99, rng.uniform(0.34, 0.95, 1000))
    return make_labels(classes.tolist(), msp.tolist(), 3)


def test_an_epoch_shows_every_sample_once_and_the_next_in_another_order():
    order, rng = SampleOrder(labels_with_rare_levels(), 3, flatten=0, seed=5), BatchRng(0)
    first = torch.cat([order.reals(40, rng) for _ in range(25)])
    second = torch.cat([order.reals(40, rng) for _ in range(25)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(1000))
    assert not torch.equal(first, second)


def test_a_batch_may_cross_epochs_even_several():
    order = SampleOrder(labels_with_rare_levels()[:7], 3, flatten=0, seed=5)
    drawn = torch.cat([order.reals(20, BatchRng(0)), order.reals(15, BatchRng(0))])
    assert torch.bincount(drawn).tolist() == [5] * 7


@pytest.mark.parametrize("flatten", [0.0, 0.5])
def test_ranks_share_the_batch_of_one_process(flatten):
    labels = labels_with_rare_levels()
    alone = SampleOrder(labels, 3, flatten, seed=1)
    rng = BatchRng(3)
    whole = [(alone.reals(8, rng), alone.labels_of_fakes(8, rng)) for _ in range(3)]
    for rank in (0, 1):
        order, rng = SampleOrder(labels, 3, flatten, seed=1), BatchRng(3, rank=rank, world_size=2)
        for reals, fakes in whole:
            assert torch.equal(order.reals(4, rng), reals[rank::2])
            assert torch.equal(order.labels_of_fakes(4, rng), fakes[rank::2])


def test_the_order_continues_from_its_state():
    labels = labels_with_rare_levels()
    order, rng = SampleOrder(labels, 3, 0, seed=1), BatchRng(0)
    order.reals(333, rng)
    again = SampleOrder(labels, 3, 0, seed=1)
    again.load_state_dict(order.state_dict())
    assert torch.equal(again.reals(900, rng), order.reals(900, rng))


def test_flat_weights_keep_classes_and_even_out_levels():
    labels = labels_with_rare_levels()
    weights = flat_weights(labels, 3)
    one_hot, u = split_labels(labels, 3)
    torch.testing.assert_close((one_hot.double() * weights[:, None]).sum(0), torch.tensor([0.6, 0.3, 0.1]).double())
    for k in range(3):
        mine = one_hot[:, k] == 1
        bins = ((1 - u[mine].double()) / 0.05).floor().long()
        mass = torch.zeros(20, dtype=torch.float64).index_add_(0, bins, weights[mine])
        assert mass[mass > 0].std() < 1e-9


def test_flat_weights_of_levels_at_the_ends_of_the_range():
    """A level of 0 (clipped energies, entropies of images that are sure) belongs to its class's bin [0, 0.05]."""
    u = [0.0, 0.0, 0.01, 0.04, 0.5, 1.0, 0.0, 0.51, 0.52, 0.96, 0.99, 1.0]
    weights = flat_weights(make_labels([0] * 6 + [1] * 6, u, 2), 2)
    expected = [1 / 4, 1 / 4, 1 / 4, 1 / 4, 1, 1, 1, 1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3]
    assert weights.tolist() == pytest.approx([w / 3 / 2 for w in expected])


def test_flattened_draws_follow_the_weights_for_reals_and_fakes_alike():
    labels = labels_with_rare_levels()
    order, rng = SampleOrder(labels, 3, 0.5, seed=0), BatchRng(0)
    expected = 0.5 / 1000 + 0.5 * flat_weights(labels, 3)
    rare = labels[:, 3] < 0.9
    for draw in (order.reals, order.labels_of_fakes):
        share = rare[draw(40_000, rng)].double().mean()
        assert float(share) == pytest.approx(float(expected[rare].sum()), abs=0.01)
