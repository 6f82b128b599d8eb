"""Items whose answer is the level that was asked for: other levels are given to G, or other latents drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from stylegan2_msp.agreement import ClassAgreement
from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.conditioning import split_labels
from stylegan2_msp.seeds import Settled

ROUNDS = 9  # tries of an item after the first; the bracket is then at most 0.004 of the range
# (positions of the labels [M], labels [M, K + 1] to give G instead, number of the draw of latents) -> items [M, ...],
# images in [-1, 1]; a position always gives the same item for the same label and draw.
Make = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Search:
    """How to come near the level that is asked for.

    Attributes:
        within: largest distance |v - u| of the answer v from the level u that ends the search for an item.
        draws: latents that may be drawn for an item, level and class given to G as asked (`draw_latents`); None keeps
            the latent and searches the level given to G (`search_levels`).
        agreement: how often the classifier names reals of each class and level as that class. Where it is known, as
            many of the drawn items are named so.
        steady: whether drawn images must have their level under small shifts, too.
    """

    within: float
    draws: int | None = None
    agreement: ClassAgreement | None = None
    steady: bool = False

    def run(self, make: Make, labels: torch.Tensor, classifier: FrozenClassifier, z: torch.Tensor) -> Found:
        """The items for labels [N, K + 1]; see `search_levels` and `draw_latents`.

        Args:
            z: latents of the first draw [N, z_dim]; as in training (`training.consistency`) they settle which of the
                drawn items are to be named as their class.
        """
        if self.draws is None:
            return search_levels(make, labels, classifier, self.within)
        right = None
        if self.agreement is not None:
            one_hot, levels = _levels(labels, classifier.num_classes)
            right = Settled(z).naming < self.agreement.to(levels.device)(levels, one_hot.argmax(dim=1))
        return draw_latents(make, labels, classifier, self.within, self.draws, right, self.steady)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        items: [N, ...] as ``make`` gives them.
        made: items made for each, int64 [N].
        accepted: whether its answer is near enough, bool [N].
        given: the level that G was given for it, [N]; None where that is the one asked for.
    """

    items: torch.Tensor
    made: torch.Tensor
    accepted: torch.Tensor
    given: torch.Tensor | None = None


@torch.no_grad()
def search_levels(make: Make, labels: torch.Tensor, classifier: FrozenClassifier, within: float) -> Found:
    """Items whose answers lie within a distance of the levels asked for, as far as G can make them.

    For a fixed latent the answer v mostly rises with the level t that G is given. Where v is too far from the level u
    asked for, t moves by u - v, and from then on to the middle between the last levels that were too low and too high.
    The item that came nearest is kept. Latent and class stay what they are.

    Args:
        make: see `Make`; only the first draw is asked for.
        labels: what is asked for, [N, K + 1].
        classifier: whose answer counts, with the measure of u.
        within: largest distance |v - u| that ends the search for an item.

    Raises:
        ValueError: the labels hold softmax vectors, not one number.
    """
    K, measure = classifier.num_classes, classifier.measure
    one_hot, wanted = _levels(labels, K)
    classes = one_hot.argmax(dim=1)
    rows = torch.arange(len(labels), device=labels.device)
    low, high = torch.full_like(wanted, measure.low(K)), torch.full_like(wanted, measure.high(K))
    given, kept = wanted.clone(), wanted.clone()
    items, made = make(rows, labels, 0), torch.ones_like(rows)
    said = _answers(classifier, items, classes)[1]
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
        tried = make(rows, torch.cat([one_hot[rows], given[rows, None]], dim=1), 0)
        made[rows] += 1
        said[rows] = _answers(classifier, tried, classes[rows])[1]
        gap = (said[rows] - wanted[rows]).abs()
        nearer = gap < distance[rows]
        items[rows[nearer]], distance[rows[nearer]] = tried[nearer], gap[nearer]
        kept[rows[nearer]] = given[rows[nearer]]
    return Found(items, made, distance <= within, kept)


@torch.no_grad()
def draw_latents(
    make: Make,
    labels: torch.Tensor,
    classifier: FrozenClassifier,
    within: float,
    draws: int,
    right: torch.Tensor | None = None,
    steady: bool = False,
) -> Found:
    """Items whose answers lie within a distance of the levels asked for, each the first such of up to ``draws``.

    Rejection sampling: G is given what is asked for, and the first item whose answer is near enough is taken. So items
    are drawn from G's own for c and u, given that |f(x) - u| <= within; where G is asked for u anyway, few are in vain.
    What the first numbers of z settle stays (`seeds.redrawn_latents`), so one kind of image does not take another's
    place that is near enough more seldom. The item that came nearest is kept where none is near enough. With
    ``right``, items whose prediction is not as it should be count as farther than any other.

    Args:
        make: see `Make`.
        labels: what is asked for, [N, K + 1].
        classifier: whose answer counts, with the measure of u.
        within: largest distance |v - u|.
        draws: most items to make for one.
        right: whether the classifier is to name each as its class, bool [N]; by default it may say either.
        steady: whether the answer to the mean logits over small shifts (`FrozenClassifier.steady_level`) must be within
            the distance, too. An item whose answer alone is counts as far away as that level.

    Raises:
        ValueError: the labels hold softmax vectors, not one number.
    """
    one_hot, wanted = _levels(labels, classifier.num_classes)
    classes = one_hot.argmax(dim=1)

    def misses(rows: torch.Tensor, tried: torch.Tensor) -> torch.Tensor:
        """How far each of the items is from what is asked for in its row."""
        predicted, said = _answers(classifier, tried, classes[rows])
        gap = (said - wanted[rows]).abs()
        if right is not None:
            gap += (predicted == classes[rows]) != right[rows]
        near = gap <= within
        if steady and near.any():
            level = classifier.steady_level(_as_written(tried[near]), classes[rows[near]])
            gap[near] = (level - wanted[rows[near]]).abs()
        return gap

    rows = torch.arange(len(labels), device=labels.device)
    items, made = make(rows, labels, 0), torch.ones_like(rows)
    distance = misses(rows, items)
    for number in range(1, draws):
        rows = torch.nonzero(distance > within)[:, 0]
        if not len(rows):
            break
        tried = make(rows, labels[rows], number)
        made[rows] += 1
        gap = misses(rows, tried)
        nearer = gap < distance[rows]
        items[rows[nearer]], distance[rows[nearer]] = tried[nearer], gap[nearer]
    return Found(items, made, distance <= within)


def _levels(labels: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hots [N, K] and levels [N] of labels [N, K + 1]."""
    one_hot, wanted = split_labels(labels, num_classes)
    if wanted.ndim > 1:
        raise ValueError(f"levels can be searched in labels [N, {num_classes + 1}], found {list(labels.shape)}")
    return one_hot, wanted


def _answers(
    classifier: FrozenClassifier, items: torch.Tensor, classes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The classifier's predictions and levels [N] for items as they would be written."""
    predicted, said = classifier.answer(_as_written(items), classes)
    return predicted.to(classes.device), said.to(classes.device)


def _as_written(items: torch.Tensor) -> torch.Tensor:
    """Images as a file holds them, rounded to bytes; points as they are."""
    return items if items.ndim < 4 else ((items.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
