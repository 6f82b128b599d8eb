"""What is known of a sample stays with it when some are taken in another order, or mirrored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stylegan2_msp.data.samples import Annotation, Corruption, Samples, default_names

KINDS = ["none", "blur", "noise", "blur"]


def samples() -> Samples:
    data = np.arange(4 * 16, dtype=np.uint8).reshape(4, 1, 4, 4)
    note = Annotation(np.float32([0.5, 0.6, 0.7, 0.8]), np.float32([[0.5, 0.5], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]]))
    corruption = Corruption("imagenet-c", KINDS, [0, 2, 5, 3])
    names = default_names("images", 4)
    return Samples(data, names, np.array([1, 0, 1, 0]), ["a", "b"], "train", corruption, note)


def test_all_columns_are_taken_in_the_order_that_is_asked_for() -> None:
    whole, index = samples(), np.array([3, 0, 2])
    taken = whole.take(index)
    assert np.array_equal(taken.data, whole.data[[3, 0, 2]])
    assert taken.classes is not None
    assert taken.classes.tolist() == [0, 1, 1]
    assert taken.corruption is not None
    assert (taken.corruption.kind, taken.corruption.severity) == (["blur", "none", "noise"], [3, 0, 5])
    assert taken.annotation is not None
    assert taken.annotation.probs is not None
    assert taken.annotation.u.tolist() == np.float32([0.8, 0.5, 0.7]).tolist()
    assert taken.annotation.probs.tolist() == np.float32([[0.8, 0.2], [0.5, 0.5], [0.3, 0.7]]).tolist()


def test_mirror_images_follow_the_images_and_keep_class_and_corruption() -> None:
    whole = samples()
    both = whole.with_flips()
    assert np.array_equal(both.data[:4], whole.data)
    assert np.array_equal(both.data[4:], whole.data[:, :, :, ::-1])
    assert both.classes is not None
    assert both.classes.tolist() == [1, 0, 1, 0] * 2
    assert both.corruption is not None
    assert both.corruption.kind == KINDS * 2
    assert both.annotation is None  # a mirror image has a level of its own


def test_a_mask_takes_what_it_marks() -> None:
    marked, numbered = (samples().take(index) for index in (np.array([True, False, True, True]), np.array([0, 2, 3])))
    assert np.array_equal(marked.data, numbered.data)
    assert (marked.names, marked.corruption) == (numbered.names, numbered.corruption)


PIXELS = np.zeros((4, 3, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (PIXELS / np.float32(255), r"float32 \[4, 3, 8, 8\]"),  # a classifier would be shown them as they are
        (PIXELS.astype(np.int64), "int64"),
        (PIXELS.transpose(0, 2, 3, 1), r"uint8 \[4, 8, 8, 3\]"),
        (PIXELS[:, 0], r"uint8 \[4, 8, 8\]"),
        (PIXELS[:, :2], r"uint8 \[4, 2, 8, 8\]"),
        (PIXELS[:, :, :4], r"uint8 \[4, 3, 4, 8\]"),
        (np.zeros((4, 2)), r"float64 \[4, 2\]"),
        (np.zeros((4, 2), ">f4"), ">f4"),
        (np.zeros((4, 3), np.float32), r"float32 \[4, 3\]"),
        ([[0.0, 1.0]], r"list \[1, 2\]"),
    ],
)
def test_data_of_another_type_or_shape_are_refused(data: Any, found: str) -> None:
    with pytest.raises(ValueError, match=rf"images uint8 \[N, C, H, W\] .* or points float32 \[N, 2\], found {found}"):
        Samples(data, default_names("images", len(data)))


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (np.array([0, 1, -1, 0]), None, "numbered from 0, found -1"),
        (np.array([0.0, 1.0, 1.0, 0.0]), None, r"int64 \[4\], found float64"),
        (np.array(["a", "b", "a", "b"]), None, "found <U1"),
        (np.array([0, 1]), None, r"found int64 \[2\]"),
        (np.eye(4, dtype=np.int64), None, r"found int64 \[4, 4\]"),
        ([0, 1, 1, 0], None, r"found list \[4\]"),
        (np.arange(4), ["a", "b"], "names the classes 0 to 3, found"),
        (np.arange(4), np.array(["a", "b", "c", "d"]), "must be a list"),
    ],
)
def test_classes_that_are_no_numbers_of_names_are_refused(classes: Any, names: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Samples(PIXELS, default_names("images", 4), classes, names)
