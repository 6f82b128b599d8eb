"""Searching for the level to give G, on answers that are known."""

from __future__ import annotations

from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from stylegan2_msp.agreement import ClassAgreement
from stylegan2_msp.conditioning import make_labels, split_labels
from stylegan2_msp.search import Search, draw_latents, search_levels
from stylegan2_msp.uncertainty import Msp

K = 4


class Answering:
    """G and classifier in one: an item is [level given, position], the answer a function of the level."""

    num_classes, measure = K, Msp()

    def __init__(self, answer_of):
        self.answer_of, self.made = answer_of, []

    def make(self, rows, labels, draw):
        assert draw == 0
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
    search = search_levels(world.make, labels(levels), world, within)
    found = search.items
    assert torch.equal(found[:, 1], torch.arange(len(levels)).float())  # every item stays in its place
    assert torch.equal(found[:, 0], search.given)
    assert (world.answer_of(found[:, 0], None) - torch.tensor(levels)).abs().max() <= within


def test_what_is_near_enough_stays_and_only_the_rest_is_made_again():
    world = Answering(lambda t, rows: torch.where(rows == 1, t - 0.1, t + 0.02))
    found = search_levels(world.make, labels([0.5, 0.6, 0.7]), world, 0.03)
    assert found.made.tolist() == [1, 2, 1]
    assert found.accepted.all()
    assert found.items[:, 0].tolist() == pytest.approx([0.5, 0.7, 0.7])  # the second after one step of 0.6 - 0.5
    assert found.given.tolist() == pytest.approx([0.5, 0.7, 0.7])
    assert world.made == [[0, 1, 2], [1]]


def test_the_nearest_is_kept_where_the_level_is_out_of_reach():
    # Never sure: the nearest is at the top. Falling answers: the first cannot be bettered by the search's wrong turn.
    never = Answering(lambda t, _: 0.3 + 0.4 * t)
    (found,) = search_levels(never.make, labels([1.0]), never, 0.01).items
    assert found[0] == pytest.approx(1.0, abs=0.01)
    falling = Answering(lambda t, _: (1.1 - t).clamp(0, 1))
    (found,) = search_levels(falling.make, labels([0.6]), falling, 0.01).items
    assert abs(float(falling.answer_of(found[None, 0], None)) - 0.6) <= 0.1


def test_the_level_that_is_told_is_that_of_the_item_that_is_kept():
    """And no level outside the measure's range is given to G: of MSP none below 1 / K."""
    low = Answering(lambda t, _: 0.3 + 0 * t)  # whatever it is given: the first item is as near as any
    found = search_levels(low.make, labels([0.6]), low, 0.01)
    assert found.given.tolist() == found.items[:, 0].tolist() == [pytest.approx(0.6)]
    high = Answering(lambda t, _: 0.8 + 0.2 * t)
    given = []
    search_levels(lambda rows, c, _: given.append(float(c[0, K])) or high.make(rows, c, 0), labels([0.3]), high, 0.01)
    assert min(given) == pytest.approx(1 / K, abs=1e-3)
    assert min(given) >= 1 / K


@pytest.mark.parametrize("draws", [None, 3])
def test_answers_are_those_to_what_a_file_would_hold(draws):
    """Images rounded to bytes; of an answer that hangs on less, nothing is left when it is written."""
    seen = []

    class Reading:
        num_classes, measure = K, Msp()

        def answer(self, items, classes):
            seen.append(items)
            return classes, items.mean(dim=(1, 2, 3))

    def make(rows, c, draw):
        return torch.rand(len(rows), 1, 8, 8) * 2.4 - 1.2

    Search(0.001, draws).run(make, labels([0.4, 0.9]), Reading(), torch.zeros(2, 4))
    for items in seen:
        steps = (items.double() + 1) * 127.5
        assert (steps - steps.round()).abs().max() < 1e-4
        assert steps.round().min() >= 0
        assert steps.round().max() <= 255


def test_reals_of_a_cell_may_lie_anywhere_in_it():
    """Of a cell of 0.05 only the mean level is known, here 0.62."""
    agreement = ClassAgreement(torch.tensor([0.3, 0.62]), torch.tensor([[0.4, 0.7]]))
    held = [agreement.may_hold(level, 0.03) for level in (0.3, 0.39, 0.45, 0.55, 0.69, 0.71)]
    assert held == [True, False, False, True, True, False]


def test_class_agreement_takes_levels_of_any_precision():
    agreement = ClassAgreement(torch.tensor([0.25, 0.75]), torch.tensor([[0.5, 1.0]]))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found = agreement(torch.tensor([0.0, 0.5, 1.0], dtype=dtype), torch.tensor([0, 1, 2]))
        assert found.tolist() == [0.5, 0.75, 1.0]


def test_softmax_vectors_are_refused():
    world = SimpleNamespace(num_classes=K, measure=Msp())
    with pytest.raises(ValueError, match="levels can be searched"):
        search_levels(lambda rows, c, _: c, make_labels([0], torch.full((1, K), 0.25), K), world, 0.1)
    with pytest.raises(ValueError, match="levels can be searched"):
        draw_latents(lambda rows, c, _: c, make_labels([0], torch.full((1, K), 0.25), K), world, 0.1, 3)


class Drawing:
    """G and classifier in one: an item is [answer, position, draw]; answers of the draws of a position are given.

    Every draw but the first is named as the next class. What a shifted item answers is given apart.
    """

    num_classes, measure = K, Msp()

    def __init__(self, answers, steady=None):
        self.answers, self.made, self.looked_at = torch.tensor(answers), [], []
        self.steady = self.answers if steady is None else torch.tensor(steady)

    def make(self, rows, labels, draw):
        self.made.append((draw, rows.tolist(), split_labels(labels, K)[1].tolist()))
        return torch.stack([self.answers[rows, draw], rows.float(), torch.full_like(rows, draw).float()], dim=1)

    def answer(self, items, classes):
        assert torch.equal(classes, (items[:, 1].long()) % K)
        return (classes + (items[:, 2] > 0)) % K, items[:, 0]

    def steady_level(self, items, classes):
        assert torch.equal(classes, (items[:, 1].long()) % K)
        self.looked_at.append(items[:, 1:].long().tolist())
        return self.steady[items[:, 1].long(), items[:, 2].long()]


def test_the_first_latent_that_is_near_enough_is_taken_and_the_nearest_where_none_is():
    world = Drawing([[0.52, 0.5, 0.5], [0.3, 0.58, 0.6], [0.9, 0.78, 0.95]])
    found = Search(0.03, draws=3).run(world.make, labels([0.5, 0.6, 0.7]), world, torch.zeros(3, 4))
    assert found.items[:, 0].tolist() == pytest.approx([0.52, 0.58, 0.78])
    assert found.items[:, 2].tolist() == [0, 1, 1]
    assert found.made.tolist() == [1, 2, 3]
    assert found.accepted.tolist() == [True, True, False]
    asked = [pytest.approx(levels) for levels in ([0.5, 0.6, 0.7], [0.6, 0.7], [0.7])]
    rows = [[0, 1, 2], [1, 2], [2]]
    assert world.made == list(zip([0, 1, 2], rows, asked, strict=True))  # G is always asked for the same


def test_an_answer_that_does_not_outlive_a_small_shift_is_passed_over():
    world = Drawing(
        [[0.5, 0.52, 0.5], [0.61, 0.4, 0.9], [0.7, 0.7, 0.7]], [[0.8, 0.47, 0.5], [0.6, 0.4, 0.9], [0.9, 0.82, 0.95]]
    )
    found = draw_latents(world.make, labels([0.5, 0.6, 0.7]), world, 0.05, 3, steady=True)
    assert found.items[:, 2].tolist() == [1, 0, 1]  # of the last none is steady; the second is so most nearly
    assert found.made.tolist() == [2, 1, 3]
    assert found.accepted.tolist() == [True, True, False]
    # Only items whose answer is near enough are asked about their neighbours.
    assert world.looked_at == [[[0, 0], [1, 0], [2, 0]], [[0, 1], [2, 1]], [[2, 2]]]


def test_an_item_that_is_named_as_it_should_not_be_is_passed_over():
    world = Drawing([[0.5, 0.47, 0.5], [0.58, 0.9, 0.65], [0.9, 0.7, 0.71], [0.3, 0.41, 0.42]])
    right = torch.tensor([False, True, False, True])
    found = draw_latents(world.make, labels([0.5, 0.6, 0.7, 0.4]), world, 0.05, 3, right)
    assert found.items[:, 2].tolist() == [1, 0, 1, 0]  # the last only its first draw is named right, far as it is
    assert found.accepted.tolist() == [True, True, True, False]
    assert found.made.tolist() == [2, 1, 2, 3]


def test_as_many_drawn_items_are_named_right_as_reals_of_their_level():
    """Even draws are named right, odd ones wrong; each is near enough. Reals: right as often as their level says."""
    n = 3000
    agreement = ClassAgreement(torch.tensor([0.0, 1.0]), torch.tensor([[0.0, 1.0]]))

    class Naming(Drawing):
        def answer(self, items, classes):
            return (classes + items[:, 2].long() % 2) % K, items[:, 0]

    levels = torch.linspace(0.3, 1.0, n).tolist()
    world = Naming([[u] * 2 for u in levels])
    z = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    found = Search(0.01, 2, agreement).run(world.make, labels(levels), world, z)
    named_right = (found.items[:, 2] == 0).double()
    assert found.accepted.all()
    for part in range(3):
        third = slice(part * n // 3, (part + 1) * n // 3)
        assert named_right[third].mean() == pytest.approx(float(torch.tensor(levels)[third].mean()), abs=0.04)
    expected = torch.special.ndtr(z[:, 0]) < torch.tensor(levels)
    assert torch.equal(found.items[:, 2] == 0, expected)  # as in training
    classes, curves = torch.arange(n) % 2, torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])  # class 1: always right
    asked = make_labels(classes.tolist(), torch.tensor(levels), K)
    found = Search(0.01, 2, ClassAgreement(agreement.levels, curves)).run(world.make, asked, world, z)
    assert torch.equal(found.items[:, 2] == 0, expected | (classes == 1))


def test_drawn_items_are_those_of_the_generator_that_answer_so():
    """G answers at random: noise .2 about the level. Accepted answers are uniform about it, as G's own are there."""
    rng = torch.Generator().manual_seed(0)
    world = Drawing((0.6 + 0.4 * torch.rand(4000, 30, generator=rng) - 0.2).tolist())
    found = draw_latents(world.make, labels([0.6] * 4000), world, 0.05, draws=30)
    answers = found.items[found.accepted, 0].double()
    assert found.made.double().mean() == pytest.approx(4, rel=0.05)  # one in four is within .05
    assert answers.mean() == pytest.approx(0.6, abs=0.002)
    assert answers.std() == pytest.approx(0.1 / 12**0.5, rel=0.03)


@pytest.mark.parametrize("draws", [None, 3])
@pytest.mark.parametrize(("answer", "accepted"), [(0.75, True), (0.875, False)])
def test_as_far_as_the_distance_is_near_enough_and_no_farther(draws, answer, accepted):
    """Whatever is tried, the answer is .25 or .375 off, numbers without rounding."""
    rising = Answering(lambda t, _: 0 * t + answer)
    drawing = Drawing([[answer] * 3])
    world = rising if draws is None else drawing
    found = Search(0.25, draws).run(world.make, labels([0.5]), world, torch.zeros(1, 4))
    assert found.accepted.tolist() == [accepted]
    assert (found.made.item() == 1) == accepted
    if draws is not None:
        steady = draw_latents(world.make, labels([0.5]), world, 0.25, draws, steady=True)
        assert steady.accepted.tolist() == [accepted]
        assert bool(drawing.looked_at) == accepted  # asked about its neighbours where the answer alone is near enough
