"""What D and the classifier are shown of the images that are kept as bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.dataset import TrainingSet


def test_images_are_shown_in_minus_one_to_one(digits_archive: Path) -> None:
    """0 is -1, 255 is 1: the inverse of how images are written (`generation.to_uint8`)."""
    data = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))
    every_byte = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    torch.testing.assert_close(data.shown(every_byte).flatten(), torch.linspace(-1, 1, 256))


def test_flips_mirror_left_and_right_and_only_what_is_to_be_flipped(digits_archive: Path) -> None:
    data = TrainingSet(open_archive(digits_archive), "class+msp", torch.device("cpu"))
    index = torch.tensor([7, 3, 5])
    plain, flipped = data.reals(index), data.reals(index, torch.tensor([True, False, True]))
    for i, mirrored in enumerate((True, False, True)):
        for x in range(16):
            assert torch.equal(flipped[i, :, :, x], plain[i, :, :, 15 - x if mirrored else x])
    assert torch.equal(data.reals(index, torch.zeros(3, dtype=torch.bool)), plain)


def test_a_condition_that_there_is_not_is_no_other_one(digits_archive: Path) -> None:
    with pytest.raises(ValueError, match="'class\\+msp', found 'msp'"):
        TrainingSet(open_archive(digits_archive), "msp", torch.device("cpu"))
