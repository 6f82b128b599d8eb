"""The label vector by examples written out."""

from __future__ import annotations

import pytest
import torch

from stylegan2_msp.conditioning import level, make_labels, split_labels

P = [[0.2, 0.5, 0.3], [0.7, 0.1, 0.2]]


def test_a_label_is_the_class_one_hot_and_then_the_uncertainty() -> None:
    torch.testing.assert_close(make_labels([2, 0], [0.7, 0.9], 3), torch.tensor([[0, 0, 1, 0.7], [1, 0, 0, 0.9]]))
    assert torch.equal(make_labels([1, 1], 0.5, 2), torch.tensor([[0, 1, 0.5]] * 2))
    of_softmax = make_labels([2, 0], torch.tensor(P), 3)
    torch.testing.assert_close(of_softmax, torch.tensor([[0, 0, 1, *P[0]], [1, 0, 0, *P[1]]]))


@pytest.mark.parametrize("u", [[0.7, 0.9], P], ids=["one number", "softmax"])
def test_a_label_is_taken_apart_into_what_it_was_made_of(u: list[float] | list[list[float]]) -> None:
    one_hot, found = split_labels(make_labels([2, 0], torch.tensor(u), 3), 3)
    assert torch.equal(one_hot, torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    assert torch.equal(found, torch.tensor(u))


def test_the_level_of_a_softmax_vector_is_the_probability_of_the_class_likeliest_or_not() -> None:
    assert torch.equal(level(make_labels([2, 0], torch.tensor(P), 3), 3), torch.tensor([0.3, 0.7]))
    assert torch.equal(level(make_labels([2, 0], [0.7, 0.9], 3), 3), torch.tensor([0.7, 0.9]))


def test_what_is_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match=r"classes must lie in \[0, 2\], found -1 to 3"):
        make_labels([3, -1], 0.5, 3)
    with pytest.raises(ValueError, match=r"classes must be whole numbers, found 0\.75"):
        make_labels(torch.tensor([2.0, 0.75]), 0.5, 3)
    assert torch.equal(make_labels(torch.tensor([2.0]), 0.5, 3), make_labels([2], 0.5, 3))
    assert make_labels([], 0.5, 3).shape == (0, 4)
    with pytest.raises(ValueError, match=r"\[N, 4\] .* or \[N, 6\] .*, found \[2, 5\]"):
        split_labels(torch.zeros(2, 5), 3)
