"""The order of reals depends on seed and position alone, so that it can be known ahead and taken up again."""

from __future__ import annotations

import pytest
import torch

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.data.dataset import SampleOrder
from torch_utils_ext.rng import BatchRng


def order(flatten: float, seed: int = 1) -> SampleOrder:
    labels = make_labels([k % 3 for k in range(50)], [0.4 + 0.01 * k for k in range(50)], 3)
    return SampleOrder(labels, 3, flatten, seed)


@pytest.mark.parametrize("flatten", [0.0, 0.5])
@pytest.mark.parametrize("rank", [0, 1])
def test_upcoming_says_what_comes_and_changes_nothing(flatten: float, rank: int) -> None:
    known, rng = order(flatten), BatchRng(0, rank=rank, world_size=2)
    for _ in range(6):  # through more than one epoch of 50
        ahead = known.upcoming(7, 3, rng)
        assert all(torch.equal(batch, known.reals(7, rng)) for batch in ahead)


@pytest.mark.parametrize("flatten", [0.0, 0.5])
def test_the_order_goes_on_from_its_state_whatever_else_was_drawn(flatten: float) -> None:
    first, rng = order(flatten), BatchRng(0)
    first.reals(33, rng)
    again, other = order(flatten), BatchRng(99)
    again.load_state_dict(first.state_dict())
    assert torch.equal(again.reals(90, other), first.reals(90, rng))


def test_seeds_differ_and_flattened_batches_do_not_repeat() -> None:
    rng = BatchRng(0)
    one, two = order(0.5), order(0.5, seed=2)
    batches = [one.reals(32, rng) for _ in range(5)] + [two.reals(32, rng)]
    assert len({tuple(batch.tolist()) for batch in batches}) == 6
