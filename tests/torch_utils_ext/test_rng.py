"""Random numbers of a batch: going on from a saved state."""

from __future__ import annotations

import torch

from torch_utils_ext.rng import BatchRng


def test_a_state_goes_on_with_the_same_numbers() -> None:
    first = BatchRng(3)
    first.randn(5)
    state, again = first.state_dict(), BatchRng(4)
    again.load_state_dict(state)
    assert torch.equal(again.randn(6, 2), first.randn(6, 2))


def test_a_state_of_another_kind_of_device_is_the_seed_of_other_numbers() -> None:
    """A CUDA generator's state is 16 bytes, its seed and how far it has come; a CPU's is some thousand."""
    states = [{"generator": torch.tensor([*[0] * 8, n, *[0] * 7], dtype=torch.uint8)} for n in (4, 4, 8)]
    drawn = []
    for rank, state in enumerate(states):
        rng = BatchRng(rank)
        rng.load_state_dict(state)
        drawn.append(rng.randn(6))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
