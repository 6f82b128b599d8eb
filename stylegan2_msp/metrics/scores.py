"""Figures of merit on pairs (u, v): u the uncertainty that was asked for, v what a classifier answers. Pure functions.

Any scalar measure will do. A figure that is undefined (no pairs, a constant side, a NaN among them) is NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def mae(u: npt.ArrayLike, v: npt.ArrayLike) -> float:
    """Mean absolute error E|v - u|."""
    a, b = _pair(u, v)
    return float(np.abs(b - a).mean()) if a.size else math.nan


def rmse(u: npt.ArrayLike, v: npt.ArrayLike) -> float:
    """Root of the mean squared error sqrt(E[(v - u)^2])."""
    a, b = _pair(u, v)
    return math.sqrt(np.square(b - a).mean()) if a.size else math.nan


def bias(u: npt.ArrayLike, v: npt.ArrayLike) -> float:
    """Mean error E[v - u]."""
    a, b = _pair(u, v)
    return float((b - a).mean()) if a.size else math.nan


def spearman(u: npt.ArrayLike, v: npt.ArrayLike) -> float:
    """Spearman's rank correlation in [-1, 1]: Pearson's correlation of the mean ranks (Spearman 1904)."""
    a, b = _pair(u, v)
    if a.size < 2 or not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return math.nan
    x, y = mean_ranks(a), mean_ranks(b)
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


def mean_ranks(x: Array) -> Array:
    """Rank of every value from 1 on, equal values sharing the mean of theirs, [N]."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def kendall(u: npt.ArrayLike, v: npt.ArrayLike) -> float:
    """Kendall's rank correlation tau-b in [-1, 1], ties taken care of (Kendall 1945)."""
    from scipy.stats import kendalltau  # scipy.stats takes long to import

    a, b = _pair(u, v)
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(kendalltau(a, b).statistic)


def concordance(u: npt.ArrayLike, v: npt.ArrayLike) -> float:
    """Lin's concordance 2 cov(u, v) / (var u + var v + (E u - E v)^2) in [-1, 1] (Lin 1989, equation 2)."""
    a, b = _pair(u, v)
    if a.size < 2:
        return math.nan
    whole = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return float(2 * ((a - a.mean()) * (b - b.mean())).mean() / whole) if whole > 0 else math.nan


def class_agreement(classes: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Share of predictions that name the class asked for, in [0, 1]."""
    y, pred = _pair(classes, predictions)
    return float((y == pred).mean()) if y.size else math.nan


def within(u: npt.ArrayLike, v: npt.ArrayLike, eps: float) -> float:
    """Share of pairs with |v - u| <= eps, in [0, 1]."""
    a, b = _pair(u, v)
    return float((np.abs(b - a) <= eps).mean()) if a.size else math.nan


def coverage(level: npt.ArrayLike, u: npt.ArrayLike, v: npt.ArrayLike, eps: float, least: float) -> float:
    """Share of the levels (each named by a number) at which at least a share ``least`` has |v - u| <= ``eps``."""
    a, b = _pair(u, v)
    if not a.size:
        return math.nan
    _, place = np.unique(np.asarray(level), return_inverse=True)
    inside = np.bincount(place, np.abs(b - a) <= eps) / np.bincount(place)
    return float((inside >= least).mean())


def monotonicity(u: npt.ArrayLike, v: npt.ArrayLike) -> Array:
    """Spearman(u, v) at every fixed latent, [P]; the figure is their mean.

    Args:
        u, v: [P, L], one row per latent; a row whose answer never changes counts as 0.
    """
    from scipy.stats import rankdata

    a, b = np.asarray(u), np.asarray(v)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"both sides must be [latents, levels], found {a.shape} and {b.shape}")
    x, y = rankdata(a, axis=1), rankdata(b, axis=1)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    spread = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.divide((x * y).sum(axis=1), spread, out=np.zeros(len(a)), where=spread > 0)


@dataclass(frozen=True)
class CalibrationBin:
    """One bin of a calibration curve: mean of u, mean of v, number of pairs, and their positions."""

    asked: float
    answered: float
    count: int
    rows: Array


def calibration_curve(u: npt.ArrayLike, v: npt.ArrayLike, bins: list[Array]) -> list[CalibrationBin]:
    """E[v | u in bin] beside E[u | u in bin] for every bin that holds a pair; ``bins`` are lists of positions."""
    a, b = _pair(u, v)
    return [CalibrationBin(float(a[rows].mean()), float(b[rows].mean()), len(rows), rows) for rows in bins if len(rows)]


def calibration_gap(curve: list[CalibrationBin]) -> float:
    """Mean of |E[v | bin] - E[u | bin]| weighted by the bins' counts, as the ECE of Guo et al. 2017, equation 3."""
    total = sum(b.count for b in curve)
    return sum(b.count * abs(b.answered - b.asked) for b in curve) / total if total else math.nan


def equal_width(u: npt.ArrayLike, low: float, high: float, count: int) -> list[Array]:
    """Positions of u in ``count`` bins of equal width on [low, high]; what lies outside goes to the outermost ones.

    Where u has no more values than there are bins, as on a grid of levels, each has its own: in a bin of two levels the
    error of one could make up for that of the other.
    """
    x = np.asarray(u)
    if len(values := np.unique(x)) <= count:
        return [np.flatnonzero(x == value) for value in values]
    place = np.clip(((x - low) / (high - low) * count).astype(int), 0, count - 1)
    return [np.flatnonzero(place == b) for b in range(count)]


def equal_mass(u: npt.ArrayLike, count: int) -> list[Array]:
    """Positions of u in ``count`` bins of equal size (up to one), in rising order of u; equal values stay together."""
    x = np.asarray(u)
    place = ((mean_ranks(x) - 0.5) / max(x.size, 1) * count).astype(int)
    return [np.flatnonzero(place == b) for b in range(count)]


@dataclass(frozen=True)
class LevelFigures:
    """What came out at one requested level: count, mean, median and the 10 %, 25 %, 75 % and 90 % quantiles of v."""

    level: float
    count: int
    mean: float
    median: float
    q10: float
    q25: float
    q75: float
    q90: float


def per_level(u: npt.ArrayLike, v: npt.ArrayLike) -> list[LevelFigures]:
    """Statistics of v for every distinct requested u, in rising order (u rounded to 6 decimals)."""
    a, b = _pair(u, v)
    a = a.astype(np.float64).round(6)
    rows = []
    for level in np.unique(a):
        chosen = b[a == level]
        q10, q25, median, q75, q90 = (float(q) for q in np.quantile(chosen, [0.1, 0.25, 0.5, 0.75, 0.9]))
        rows.append(LevelFigures(float(level), len(chosen), float(chosen.mean()), median, q10, q25, q75, q90))
    return rows


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(a), np.asarray(b)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"both sides must be one-dimensional and equally long, found {x.shape} and {y.shape}")
    return _signed(x), _signed(y)


def _signed(x: Array) -> Array:
    """Whole numbers as float64: differences of unsigned ones would wrap around."""
    return x.astype(np.float64) if x.dtype.kind in "bui" else x
