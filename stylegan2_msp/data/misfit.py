"""Whether a classifier's answers fit the labels at all, and what may be wrong where they do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

_LITTLE = 0.1  # kappa of a classifier that hardly knows the labels
_MUCH = 0.5  # kappa that outputs in the right order would have
_FAR = 0.1  # what accuracy gains by it
_PER_CLASS = 5  # samples for each class, below which some order fits by luck
_MOST_CLASSES = 1000  # the search for an order takes their number cubed
_SHOWN = 12


def misfit(predicted: np.ndarray, classes: np.ndarray, names: Sequence[str], trained: bool = False) -> str | None:
    """One line on a classifier that does not fit the labels; None where nothing is to be said.

    Two things are looked for: outputs that are in another order than the classes (the assignment of outputs to classes
    with the most hits is far better), and an accuracy about that of chance, which is answers as frequent but given
    without a look at the sample. What lies above chance is measured by kappa (Cohen 1960), so that a classifier that
    always names the commonest class has 0 and one that knows a rare class has not.

    Args:
        predicted: int64 [N].
        classes: labels, int64 [N]; a single one among them tells nothing.
        names: of the K classes.
        trained: the classifier was trained on these samples, so that its options cannot be wrong.
    """
    k = len(names)
    if len(np.unique(classes)) < 2:
        return None
    accuracy = float((predicted == classes).mean())
    if k <= _MOST_CLASSES and len(classes) >= _PER_CLASS * k:
        class_of = _best_order(predicted, classes, k)
        ordered = class_of[predicted]
        better = float((ordered == classes).mean())
        if better - accuracy >= _FAR and _kappa(ordered, classes, k) >= _MUCH:
            return (
                f"the classifier's outputs seem to be in another order than the classes, {_listed(names, class_of)}: "
                f"accuracy would be {100 * better:.1f} % so, not {100 * accuracy:.1f} %; "
                f"its output must be in the archive's order, {_listed(names, range(k))}"
            )
    if _kappa(predicted, classes, k) < _LITTLE:
        options = "--classifier-weights, --input-size, --input-range, --input-mean, --input-std"
        order = f"that its outputs are in the order of the classes, {_listed(names, range(k))}"
        check = "that the labels belong to the samples" if trained else f"{options} and {order}"
        return (
            f"accuracy {100 * accuracy:.1f} % is about chance ({100 * _chance(predicted, classes, k):.1f} %): "
            f"the classifier does not seem to fit the data; check {check}"
        )
    return None


def _best_order(predicted: np.ndarray, classes: np.ndarray, k: int) -> np.ndarray:
    """The class of each output, int64 [K], by which most samples are named right."""
    hits = np.bincount(predicted * k + classes, minlength=k * k).reshape(k, k)
    return linear_sum_assignment(hits, maximize=True)[1]


def _chance(predicted: np.ndarray, classes: np.ndarray, k: int) -> float:
    named, true = (np.bincount(what, minlength=k) / len(what) for what in (predicted, classes))
    return float(named @ true)


def _kappa(predicted: np.ndarray, classes: np.ndarray, k: int) -> float:
    chance = _chance(predicted, classes, k)
    return (float((predicted == classes).mean()) - chance) / (1 - chance)


def _listed(names: Sequence[str], order: Iterable[int]) -> str:
    chosen = [names[index] for index in order]
    return ", ".join(chosen[:_SHOWN]) + (", ..." if len(chosen) > _SHOWN else "")
