"""Fakes beside reals: agreement and mix of corruption kinds at every level, quality on features, energy distance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stylegan2_msp.metrics.asking import bins_of
from stylegan2_msp.metrics.intervals import Interval, bootstrap, interval_of_share, student_interval
from stylegan2_msp.metrics.judges import KINDS
from stylegan2_msp.metrics.matching import Scale, second_figures
from stylegan2_msp.metrics.observing import Items
from stylegan2_msp.metrics.quality import energy_distance, quality
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.metrics.scores import mae

Array = npt.NDArray[Any]
_ENERGY_ITEMS = 3000
_ENERGY_DRAWS = 40
_PER_CELL, _MOST_EVEN = 125, 20_000  # reals of a class at a level (10,000 of ten classes at eight), and of all


@dataclass(frozen=True)
class Reference:
    """Real items that were shown to the judges.

    Attributes:
        seen: the items; None where there are no judges.
        parts: two disjoint random parts of the data, equally large, as positions in ``seen``; for every level two
            parts of its bin, for None two of all.
        held_out: positions in ``seen`` of items that the second classifier was not trained on.
    """

    seen: Items | None
    parts: Mapping[float | None, tuple[Array, Array]]
    held_out: Array


def add_reals(
    results: Results, everyone: Items, reference: Reference, scale: Scale, seed: int, transfer: bool = True
) -> None:
    """Adds what holds of reals: class agreement and kinds at every level, and what the second classifier says of them.

    On 'uniform' a level's agreement is the mean over classes, as every class is asked for equally often, and that of
    all the mean over levels; the second classifier is asked about items that it was not trained on, on 'uniform'
    equally many of every class at every level: so far it would follow a generator that makes the real thing. A class
    that has nothing at a level is missing there: where levels are rare, fakes are asked for more than reals show.
    Intervals of agreement say how few items a class has at a level; what is missing they cannot say.
    """
    bins = bins_of(everyone.asked, scale.levels)
    right = (everyone.predicted == everyone.classes).astype(float)
    _add_share(results, "class_agreement", right, of="reals", on="natural")
    cells = np.full((len(scale.levels), int(everyone.classes.max()) + 1), np.nan)
    counts = np.zeros(cells.shape, int)
    for b, level in enumerate(scale.levels):
        rows = np.flatnonzero(bins == b)
        if not len(rows):
            continue
        where: dict[str, Any] = {"of": "reals", "level": level}
        _add_share(results, "class_agreement", right[rows], on="matched", **where)
        for k in np.unique(everyone.classes[rows]):
            own = right[rows[everyone.classes[rows] == k]]
            cells[b, k], counts[b, k] = own.mean(), len(own)
        value, spread = _mean_of_cells(cells[b : b + 1], counts[b : b + 1])
        results.add("class_agreement", value, spread, count=len(rows), on="uniform", **where)
        if everyone.kinds is not None:
            _add_kinds(results, everyone.kinds[rows], "recorded", on="matched", **where)
    for k in range(cells.shape[1]):
        own = right[everyone.classes == k]
        if len(own):
            _add_share(results, "class_agreement", own, of="reals", on="natural", cls=k)
            value, spread = _mean_of_cells(cells[:, k : k + 1], counts[:, k : k + 1])
            results.add("class_agreement", value, spread, count=len(own), of="reals", on="uniform", cls=k)
    value, spread = _mean_of_cells(cells, counts)
    results.add("class_agreement", value, spread, count=len(right), of="reals", on="uniform")
    if reference.seen is not None:
        _add_second(results, reference.seen.take(reference.held_out), scale, seed, transfer)


def _add_share(results: Results, figure: str, is_it: Array, **where: Any) -> None:
    share = float(is_it.mean())
    results.add(figure, share, interval_of_share(share, len(is_it)), count=len(is_it), **where)


def _mean_of_cells(shares: Array, counts: Array) -> tuple[float, Interval]:
    """Mean over levels of the mean over classes, [levels, classes], of the cells that hold any items."""
    held = counts > 0
    if not held.any():
        return math.nan, (math.nan, math.nan)
    weights = held / np.maximum(held.sum(axis=1, keepdims=True), 1) / held.any(axis=1).sum()
    return float(weights[held] @ shares[held]), interval_of_share(shares[held], counts[held], weights[held])


def _add_second(results: Results, reals: Items, scale: Scale, seed: int, transfer: bool) -> None:
    reals = replace(reals, features=None)  # which nobody asks for here
    spread = bootstrap(lambda r: second_figures(reals.take(r), transfer), len(reals), seed)
    results.add_all(second_figures(reals, transfer), spread, count=len(reals), of="reals", on="natural")
    bins, rng = bins_of(reals.asked, scale.levels), np.random.default_rng(seed)

    def evenly(rows: Array) -> dict[str, float]:
        return second_figures(reals.take(rows[_evenly(reals.classes[rows], bins[rows], rng)]), transfer)

    inside = np.flatnonzero(bins >= 0)
    if len(inside):
        spread = bootstrap(lambda r: evenly(inside[r]), len(inside), seed)
        results.add_all(evenly(inside), spread, count=len(inside), of="reals", on="uniform")
    for b, level in enumerate(scale.levels):
        part = reals.take(np.flatnonzero(bins == b))
        if not len(part) or part.second_predicted is None or part.second_answered is None:
            continue
        where: dict[str, Any] = {"of": "reals", "on": "matched", "level": level}
        _add_share(results, "second_class_agreement", part.second_predicted == part.classes, **where)
        if transfer:
            results.add("second_mae", mae(part.asked, part.second_answered), count=len(part), **where)
            spread_of_mean = _interval_of_mean(part.second_answered, scale)
            results.add("second_mean", part.second_answered.mean(), spread_of_mean, count=len(part), **where)


def _interval_of_mean(values: Array, scale: Scale) -> Interval:
    """Student's, which is wide where items are few, within the range of levels; one item alone has none."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    low, high = student_interval(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n), n)
    return max(low, scale.low), min(high, scale.high)


def _evenly(classes: Array, bins: Array, rng: np.random.Generator) -> Array:
    """Positions drawn with replacement, equally many of every class at every level that has any."""
    cells = [np.flatnonzero((classes == k) & (bins == b)) for b in np.unique(bins) for k in np.unique(classes)]
    cells = [cell for cell in cells if len(cell)]
    count = max(1, min(_PER_CELL, _MOST_EVEN // len(cells)))
    return np.concatenate([rng.choice(cell, count) for cell in cells])


def add_realism(
    results: Results, reference: Reference, items: Mapping[str, Items], scale: Scale, seed: int, with_quality: bool
) -> None:
    """Adds mix of kinds and quality: fakes, and one part of the reals, against the other part, all equally many."""
    reals = reference.seen
    assert reals is not None
    for level, (first, other) in reference.parts.items():
        on = "natural" if level is None else "matched"
        if on not in items:
            continue
        fakes = items[on]
        if level is not None:
            fakes = fakes.take(np.flatnonzero(bins_of(fakes.asked, scale.levels) == scale.levels.index(level)))
        for of, part in (("fakes", fakes), ("reals", reals.take(other))):
            where: dict[str, Any] = {"of": of, "on": on, "level": level}
            if part.kinds is not None and len(part):
                _add_kinds(results, part.kinds, "share", **where)
            count = min(len(part), len(first))
            if with_quality and part.features is not None and reals.features is not None and count > 1:
                there, here = reals.features[first[:count]], part.features[:count]
                values, spread = quality(there, here, part.classes[:count], seed)
                results.add_all(values, spread, count=count, **where)


def _add_kinds(results: Results, kinds: Array, prefix: str, **where: Any) -> None:
    for index, name in enumerate(KINDS):
        _add_share(results, f"{prefix}_{name}", kinds == index, **where)


def add_energy(results: Results, reference: Reference, fakes: Items, seed: int) -> None:
    """Adds the energy distance of fakes to reals over that of two real samples of the same size, overall and per class.

    Means of 40 random draws of up to 3000 items; about 1 is as near as another sample of the data would be. The draws
    share their items, so their spread says nothing of another sample, and there is no interval.
    """
    reals = reference.seen
    assert reals is not None
    both = reals.take(np.concatenate(reference.parts[None]))
    for cls in [None, *np.unique(both.classes).tolist()]:
        x, y = both.features, fakes.features
        assert x is not None
        assert y is not None
        if cls is not None:
            x, y = x[both.classes == cls], y[fakes.classes == cls]
        m = min(len(x) // 2, len(y), _ENERGY_ITEMS)
        if m < 2:
            continue
        rng = np.random.default_rng(seed)
        to_reals, to_fakes = np.empty(_ENERGY_DRAWS), np.empty(_ENERGY_DRAWS)
        for draw in range(_ENERGY_DRAWS):
            order = rng.permutation(len(x))
            a, b, f = x[order[:m]], x[order[m : 2 * m]], y[rng.permutation(len(y))[:m]]
            to_reals[draw], to_fakes[draw] = energy_distance(a, b), energy_distance(a, f)
        results.add("energy_ratio", to_fakes.mean() / to_reals.mean(), count=m, on="natural", cls=cls)
