"""What is known of a sample stays with it when some are taken in another order, or mirrored."""

from __future__ import annotations

import numpy as np

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
