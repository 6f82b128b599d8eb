"""The figures of the condition on a set of items, overall, per class and per level, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stylegan2_msp.metrics.asking import bins_of, half_step
from stylegan2_msp.metrics.intervals import Interval, bootstrap, interval_of_mean, interval_of_share
from stylegan2_msp.metrics.observing import Items
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.metrics.scores import (
    bias,
    calibration_curve,
    calibration_gap,
    class_agreement,
    concordance,
    coverage,
    equal_mass,
    equal_width,
    kendall,
    mae,
    monotonicity,
    rmse,
    spearman,
    within,
)

Array = npt.NDArray[Any]
BINS = 10  # of a calibration curve
LEAST = 0.5  # share of a level's items that must come within eps for the level to count as covered
_SHARES = ("within", "class_agreement", "second_class_agreement")  # figures that are shares of items


@dataclass(frozen=True)
class Scale:
    """Levels in rising order and the range [low, high] of the measure; ``eps`` is half the distance of two levels."""

    levels: Sequence[float]
    low: float
    high: float

    @property
    def eps(self) -> float:
        """What counts as near enough."""
        return half_step(self.levels)


def match_figures(items: Items, scale: Scale, transfer: bool = True) -> dict[str, float]:
    """Every figure of the condition on all of these items.

    Args:
        items: what was asked and answered.
        scale: of the measure.
        transfer: whether the second classifier's uncertainty can be compared.
    """
    u, v = items.asked, items.answered
    bins = bins_of(u, scale.levels)
    inside = bins >= 0
    return class_figures(items, scale, transfer) | {
        "kendall": kendall(u, v),
        "levels_covered": coverage(bins[inside], u[inside], v[inside], scale.eps, LEAST),
        "gap_equal_width": calibration_gap(calibration_curve(u, v, equal_width(u, scale.low, scale.high, BINS))),
        "gap_equal_mass": calibration_gap(calibration_curve(u, v, equal_mass(u, BINS))),
    }


def class_figures(items: Items, scale: Scale, transfer: bool = True) -> dict[str, float]:
    """The figures that are also given per class and for baselines."""
    found = _errors(items.asked, items.answered) | {
        "within": within(items.asked, items.answered, scale.eps),
        "class_agreement": class_agreement(items.classes, items.predicted),
    }
    return found | second_figures(items, transfer)


def second_figures(items: Items, transfer: bool = True) -> dict[str, float]:
    """What the second classifier says: its agreement with the class and how its own uncertainty follows u."""
    if items.second_predicted is None or items.second_answered is None:
        return {}
    found = {"class_agreement": class_agreement(items.classes, items.second_predicted)}
    found |= _errors(items.asked, items.second_answered) if transfer else {}
    return {f"second_{name}": value for name, value in found.items()}


def add_match(results: Results, items: Items, scale: Scale, on: str, seed: int, transfer: bool = True) -> None:
    """Adds the figures of fakes overall and per class, the calibration curves, and per level."""
    found = match_figures(items, scale, transfer)
    whole = bootstrap(lambda r: match_figures(items.take(r), scale, transfer), len(items), seed, items.group)
    results.add_all(found, whole | _intervals_of_shares(found, len(items), items.group), count=len(items), on=on)
    for cls in np.unique(items.classes):
        own = items.take(np.flatnonzero(items.classes == cls))
        spread = bootstrap(lambda r, own=own: class_figures(own.take(r), scale, transfer), len(own), seed, items.group)  # type: ignore[misc]
        found = class_figures(own, scale, transfer)
        results.add_all(
            found, spread | _intervals_of_shares(found, len(own), items.group), count=len(own), on=on, cls=int(cls)
        )
    if items.group > 1:
        shape = (-1, items.group)
        each = monotonicity(items.asked.reshape(shape), items.answered.reshape(shape))
        results.add("monotonicity", each.mean(), interval_of_mean(each, seed), count=len(each), on=on)
    curves = {
        "calibration_equal_width": equal_width(items.asked, scale.low, scale.high, BINS),
        "calibration_equal_mass": equal_mass(items.asked, BINS),
    }
    for name, bins in curves.items():
        for b in calibration_curve(items.asked, items.answered, bins):
            spread_of_mean = interval_of_mean(items.answered[b.rows], seed)
            results.add(name, b.answered, spread_of_mean, count=b.count, on=on, level=b.asked)
    add_levels(results, items, scale, on, seed, transfer)


def add_levels(results: Results, items: Items, scale: Scale, on: str, seed: int, transfer: bool = True) -> None:
    """Adds the figures of fakes in the bin of every level."""
    bins = bins_of(items.asked, scale.levels)
    for b, level in enumerate(scale.levels):
        part = items.take(np.flatnonzero(bins == b))
        if len(part):
            found = _at_level(part, scale.eps, transfer)
            spread = bootstrap(lambda r, part=part: _at_level(part.take(r), scale.eps, transfer), len(part), seed)  # type: ignore[misc]
            results.add_all(found, spread | _intervals_of_shares(found, len(part)), count=len(part), on=on, level=level)


def _intervals_of_shares(found: Mapping[str, float], count: int, group: int = 1) -> dict[str, Interval]:
    """Of the figures that are shares of so many independent items; none where ``group`` of them share a latent."""
    if group > 1:
        return {}
    return {name: interval_of_share(found[name], count) for name in _SHARES if name in found}


def _at_level(items: Items, eps: float, transfer: bool) -> dict[str, float]:
    u, v = items.asked, items.answered
    found = {
        "mean": float(v.mean()),
        "bias": bias(u, v),
        "mae": mae(u, v),
        "rmse": rmse(u, v),
        "within": within(u, v, eps),
        "class_agreement": class_agreement(items.classes, items.predicted),
    }
    if items.second_predicted is not None and items.second_answered is not None:
        found["second_class_agreement"] = class_agreement(items.classes, items.second_predicted)
        if transfer:
            found["second_mean"] = float(items.second_answered.mean())
            found["second_mae"] = mae(u, items.second_answered)
    return found


def _errors(u: Array, v: Array) -> dict[str, float]:
    return {
        "mae": mae(u, v),
        "rmse": rmse(u, v),
        "bias": bias(u, v),
        "spearman": spearman(u, v),
        "concordance": concordance(u, v),
    }
