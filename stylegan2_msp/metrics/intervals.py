"""95 % intervals: percentile bootstrap (Efron 1979), for means a quick one, of shares (Wilson), grouped jackknife."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Interval = tuple[float, float]
RESAMPLES = 200
_UNDEFINED = (math.nan, math.nan)
_Z = 1.959964  # 97.5 % quantile of the normal distribution


def bootstrap(
    statistics: Callable[[Array], Mapping[str, float]],
    size: int,
    seed: int = 0,
    groups: int = 1,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals (95 %) of several statistics of the same items.

    Args:
        statistics: figures by name for positions of items, int64 [size].
        size: number of items.
        seed: of the resampling.
        groups: neighbours that share a latent and are drawn together; ``size`` must be a multiple of it.
        resamples: how often.

    Returns:
        (low, high) by name; NaN where a statistic is undefined in every resample.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(resamples if size else 0):
        drawn = rng.integers(0, size // groups, size // groups)
        rows = (drawn[:, None] * groups + np.arange(groups)).ravel()
        for name, value in statistics(rows).items():
            found.setdefault(name, []).append(value)
    return {name: _percentiles(np.array(values)) for name, values in found.items()}


def interval_of_mean(values: npt.ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Percentile bootstrap interval (95 %) of the mean of ``values`` [N]."""
    x = np.asarray(values, np.float64)
    if not x.size:
        return _UNDEFINED
    rng = np.random.default_rng(seed)
    return _percentiles(np.array([x[rng.integers(0, x.size, x.size)].mean() for _ in range(resamples)]))


def interval_of_share(shares: npt.ArrayLike, counts: npt.ArrayLike, weights: npt.ArrayLike = 1.0) -> Interval:
    """Interval (95 %) of a share, or of a weighted sum of shares of independent samples.

    Of each share Wilson's (1927), which is wide where items are few even if all of them agree; a bootstrap would have
    no width there. Of the sum by Zou, Huang and Zhang (2009): the distances of the shares' limits from the shares are
    added as errors are.

    Args:
        shares: in [0, 1], one or [M].
        counts: items behind each, at least 1.
        weights: of each in the sum.
    """
    p, n, w = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, np.float64)) for x in (shares, counts, weights)))
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    reach = _Z * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    below, above = p - np.clip(middle - reach, 0, p), np.clip(middle + reach, p, 1) - p
    value = float(w @ p)
    return value - float(np.linalg.norm(w * below)), value + float(np.linalg.norm(w * above))


def jackknife(statistic: Callable[[Array], float], size: int, blocks: int = 10) -> Interval:
    """Value +- t SE with the standard error of the grouped jackknife and Student's t (Tukey 1958).

    For statistics that a bootstrap would shift because it repeats items, such as the Frechet distance.

    Args:
        statistic: its value for positions of items.
        size: number of items, which are taken to be in random order.
        blocks: each is left out once.
    """
    if size < 2 * blocks:
        return _UNDEFINED
    left_out = np.arange(size) % blocks
    values = np.array([statistic(np.flatnonzero(left_out != b)) for b in range(blocks)])
    error = math.sqrt((blocks - 1) / blocks * np.square(values - values.mean()).sum())
    return student_interval(statistic(np.arange(size)), error, blocks)


def student_interval(value: float, error: float, blocks: int) -> Interval:
    """value +- t error for a standard error that was estimated from so many blocks."""
    from scipy.stats import t  # takes long to import

    reach = float(t.ppf(0.975, blocks - 1)) * error
    return value - reach, value + reach


def _percentiles(values: Array) -> Interval:
    values = values[~np.isnan(values)]
    if not values.size:
        return _UNDEFINED
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))
