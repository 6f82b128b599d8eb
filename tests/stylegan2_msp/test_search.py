"""Searching for the level to give G, on answers that are known."""

from __future__ import annotations

from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from stylegan2_msp.conditioning import make_labels, split_labels
from stylegan2_msp.search import search_levels
from stylegan2_msp.uncertainty import Msp

K = 4


class Answering:
    """G and classifier in one: an item is [level given, position], the answer a function of the level."""

    num_classes, measure = K, Msp()

    def __init__(self, answer_of):
        self.answer_of, self.made = answer_of, []

    def make(self, rows, labels):
        self.made.append(rows.tolist())
        return torch.stack([split_labels(labels, K)[1], rows.float()], dim=1)

    def answer(self, items, classes):
        assert torch.equal(classes, (items[:, 1].long()) % K)
        return classes, self.answer_of(items[:, 0], items[:, 1].long())


def labels(levels):
    return make_labels(torch.arange(len(levels)) % K, torch.tensor(levels), K)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.3, 0.98), min_size=1, max_size=9),
    st.floats(0.7, 2.0),
    st.sampled_from([0.01, 0.03, 0.1]),
)
def test_a_rising_answer_is_met_within_the_distance(levels, power, within):
    world = Answering(lambda t, _: 0.25 + 0.75 * ((t - 0.25).clamp(min=0) / 0.75) ** power)
    found = search_levels(world.make, labels(levels), world, within)
    assert torch.equal(found[:, 1], torch.arange(len(levels)).float())  # every item stays in its place
    assert (world.answer_of(found[:, 0], None) - torch.tensor(levels)).abs().max() <= within


def test_what_is_near_enough_stays_and_only_the_rest_is_made_again():
    world = Answering(lambda t, rows: torch.where(rows == 1, t - 0.2, t + 0.02))
    found = search_levels(world.make, labels([0.5, 0.6, 0.7]), world, 0.03)
    assert found[:, 0].tolist() == pytest.approx([0.5, 0.8, 0.7])  # the second after one step of 0.6 - 0.4
    assert world.made == [[0, 1, 2], [1]]


def test_the_nearest_is_kept_where_the_level_is_out_of_reach():
    # Never sure: the nearest is at the top. Falling answers: the first cannot be bettered by the search's wrong turn.
    never = Answering(lambda t, _: 0.3 + 0.4 * t)
    (found,) = search_levels(never.make, labels([1.0]), never, 0.01)
    assert found[0] == pytest.approx(1.0, abs=0.01)
    falling = Answering(lambda t, _: (1.1 - t).clamp(0, 1))
    (found,) = search_levels(falling.make, labels([0.6]), falling, 0.01)
    assert abs(float(falling.answer_of(found[None, 0], None)) - 0.6) <= 0.1


def test_softmax_vectors_are_refused():
    world = SimpleNamespace(num_classes=K, measure=Msp())
    with pytest.raises(ValueError, match="levels can be searched"):
        search_levels(lambda rows, c: c, make_labels([0], torch.full((1, K), 0.25), K), world, 0.1)
