"""The level to give a generator so that the classifier's answer is the level that was asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.conditioning import split_labels

ROUNDS = 9  # tries of an item after the first; the bracket is then at most 0.004 of the range


@torch.no_grad()
def search_levels(
    make: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    classifier: FrozenClassifier,
    within: float,
) -> torch.Tensor:
    """Items whose answers lie within a distance of the levels asked for, as far as G can make them.

    For a fixed latent the answer v mostly rises with the level t that G is given. Where v is too far from the level u
    asked for, t moves by u - v, and from then on to the middle between the last levels that were too low and too high.
    The item that came nearest is kept. Latent and class stay what they are.

    Args:
        make: (positions of the labels [M], labels [M, K + 1] to give G instead) -> items [M, ...], images in [-1, 1];
            a position always gives the same item for the same label.
        labels: what is asked for, [N, K + 1].
        classifier: whose answer counts, with the measure of u.
        within: largest distance |v - u| that ends the search for an item.

    Returns:
        Items [N, ...] as ``make`` gives them.

    Raises:
        ValueError: the labels hold softmax vectors, not one number.
    """
    K, measure = classifier.num_classes, classifier.measure
    one_hot, wanted = split_labels(labels, K)
    if wanted.ndim > 1:
        raise ValueError(f"levels can be searched in labels [N, {K + 1}], found {list(labels.shape)}")
    classes = one_hot.argmax(dim=1)
    rows = torch.arange(len(labels), device=labels.device)
    low, high = torch.full_like(wanted, measure.low(K)), torch.full_like(wanted, measure.high(K))
    given = wanted.clone()
    items = make(rows, labels)
    said = _answers(classifier, items, classes)
    distance = (said - wanted).abs()
    for tries in range(ROUNDS):
        rows = torch.nonzero(distance > within)[:, 0]
        if not len(rows):
            break
        too_high = said[rows] > wanted[rows]
        high[rows] = torch.where(too_high, given[rows], high[rows])
        low[rows] = torch.where(too_high, low[rows], given[rows])
        middle = (low[rows] + high[rows]) / 2
        step = given[rows] + wanted[rows] - said[rows]
        inside = (step > low[rows]) & (step < high[rows])
        given[rows] = torch.where(inside, step, middle) if tries == 0 else middle
        tried = make(rows, torch.cat([one_hot[rows], given[rows, None]], dim=1))
        said[rows] = _answers(classifier, tried, classes[rows])
        gap = (said[rows] - wanted[rows]).abs()
        nearer = gap < distance[rows]
        items[rows[nearer]], distance[rows[nearer]] = tried[nearer], gap[nearer]
    return items


def _answers(classifier: FrozenClassifier, items: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The classifier's levels [N] for images as they would be written, rounded to bytes, or for points."""
    seen = items if items.ndim < 4 else ((items.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    return classifier.answer(seen, classes)[1].to(classes.device)
