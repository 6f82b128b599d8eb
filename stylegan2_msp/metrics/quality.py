"""How far generated features lie from real ones: FID, KID, precision, recall, density, coverage, diversity; energy.

All take features [N, D] of real and of generated items. torchmetrics does the arithmetic of FID and KID.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import adaptive_avg_pool2d

from stylegan2_msp.errors import UserError
from stylegan2_msp.metrics.intervals import Interval, interval_of_mean, jackknife, student_interval

Array = npt.NDArray[Any]
NEIGHBOURS = 5
KID_BLOCKS = 10
_ROWS_AT_ONCE = 1024
_SIDE = 32  # pixels of the side of images as `pixel_features` sees them
_MANY_FEATURES = 256  # the intervals of FID take too long for more


class _Through(torch.nn.Module):
    """Stands where torchmetrics expects the feature network: features are what it is given."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def check_torchmetrics() -> None:
    """Raises `UserError` with what to do when torchmetrics is missing or cannot be imported."""
    try:
        import torchmetrics.image.fid  # noqa: F401
    except ImportError:
        raise UserError(
            "FID and KID need torchmetrics: pip install torchmetrics (`evaluate --features none` goes without)"
        ) from None
    except Exception as error:  # a torchvision that was built for another torch, which torchmetrics imports
        raise UserError(
            f"FID and KID need torchmetrics, which cannot be imported ({type(error).__name__}: {str(error)[:200]}); "
            "install the torchvision that fits this torch, or remove it (`evaluate --features none` goes without)"
        ) from None


def frechet_distance(real: Array, fake: Array) -> float:
    """|mu_r - mu_f|^2 + Tr(S_r + S_f - 2 (S_r S_f)^(1/2)) of the features' Gaussians (Heusel et al. 2017, equation 6).

    NaN for fewer than two items on a side.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(real), len(fake)) < 2:
        return math.nan
    metric = FrechetInceptionDistance(feature=_Through(real.shape[1]))
    metric.update(torch.from_numpy(real).double(), real=True)
    metric.update(torch.from_numpy(fake).double(), real=False)
    return float(metric.compute())


def kernel_distances(real: Array, fake: Array, blocks: int = KID_BLOCKS) -> Array:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 of disjoint blocks; KID is their mean (Binkowski 2018).

    Args:
        real, fake: features, in random order.
        blocks: each is an equal share of both sides.

    Returns:
        One value per block; empty when a block would have fewer than two items.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(real), len(fake)) // blocks
    values = []
    for b in range(blocks if size >= 2 else 0):
        rows = slice(b * size, (b + 1) * size)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # that features are kept, which they are anyway
            metric = KernelInceptionDistance(feature=_Through(real.shape[1]), subsets=1, subset_size=size)
            metric.update(torch.from_numpy(real[rows]).double(), real=True)
            metric.update(torch.from_numpy(fake[rows]).double(), real=False)
            values.append(float(metric.compute()[0]))
    return np.array(values)


@dataclass(frozen=True)
class Neighbourhoods:
    """What each item says for precision and density (fakes, [F]) and for recall and coverage (reals, [R])."""

    precision: Array
    recall: Array
    density: Array
    coverage: Array


def neighbourhoods(real: Array, fake: Array, k: int = NEIGHBOURS) -> Neighbourhoods:
    """Per item terms of improved precision and recall and of density and coverage; the figures are their means.

    With B(x) the ball around x that reaches to its k-th nearest neighbour among its own kind:
    precision: a fake lies in B of some real; recall: a real lies in B of some fake (Kynkaanniemi et al. 2019,
    equations 1 and 2); density: number of reals' B that hold a fake, over k; coverage: B of a real holds some fake
    (Naeem et al. 2020, equations 6 and 8).
    """
    dtype = np.result_type(real, fake, np.float32)
    r, f = torch.from_numpy(np.array(real, dtype)), torch.from_numpy(np.array(fake, dtype))
    if min(len(r), len(f)) <= k:
        nothing = np.empty(0)
        return Neighbourhoods(nothing, nothing, nothing, nothing)
    r, f = _centred(r, f)
    reach_r, reach_f = _reach(r, k), _reach(f, k)
    counts = torch.zeros(len(f))
    recalled, covered = [], []
    for rows, reach in zip(r.split(_ROWS_AT_ONCE), reach_r.split(_ROWS_AT_ONCE), strict=True):
        distance = torch.cdist(rows, f)
        inside = distance <= reach[:, None]
        counts += inside.sum(dim=0)
        covered.append(inside.any(dim=1))
        recalled.append((distance <= reach_f[None, :]).any(dim=1))
    return Neighbourhoods(
        precision=(counts > 0).double().numpy(),
        recall=torch.cat(recalled).double().numpy(),
        density=(counts / k).double().numpy(),
        coverage=torch.cat(covered).double().numpy(),
    )


def pixel_features(x: torch.Tensor) -> torch.Tensor:
    """What the distance of two items is taken of where no network gives features, [N, D].

    Of images each channel's mean is taken away: a shade over the whole image is the cheapest way to lie apart.

    Args:
        x: images [N, C, H, W], shrunk by means over areas if they are larger than 32x32, or points [N, 2].
    """
    if x.ndim == 2:
        return x
    x = adaptive_avg_pool2d(x, _SIDE) if x.shape[-1] > _SIDE else x
    return (x - x.mean(dim=(2, 3), keepdim=True)).flatten(1)


def diversity(features: Array, groups: Array) -> float:
    """Mean distance of two different items of the same group (class), groups weighted by their size; NaN without pairs.

    In the manner of the mean pairwise LPIPS of images (Zhang et al. 2018), on these features.
    """
    total, weight = 0.0, 0
    for group in np.unique(groups):
        x = torch.from_numpy(features[groups == group])
        if len(x) > 1:
            total += float(_sum_of_distances(x, x)) / (len(x) - 1)
            weight += len(x)
    return total / weight if weight else math.nan


def energy_distance(x: Array, y: Array) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of points [N, D] as a V-statistic, so never negative (Szekely, Rizzo 2013)."""
    a, b = torch.from_numpy(np.asarray(x, np.float64)), torch.from_numpy(np.asarray(y, np.float64))
    between = _sum_of_distances(a, b) / (len(a) * len(b))
    return float(2 * between - _sum_of_distances(a, a) / len(a) ** 2 - _sum_of_distances(b, b) / len(b) ** 2)


def quality(
    real: Array, fake: Array, classes_fake: Array, seed: int = 0
) -> tuple[dict[str, float], dict[str, Interval]]:
    """FID, KID, precision, recall, density, coverage and diversity of fakes beside as many reals, with intervals.

    Intervals of precision and density are over fakes alone, of recall and coverage over reals alone, the other side as
    it is: another sample of both differs by somewhat more.

    Args:
        real, fake: float32 features [N, D] in random order, equally many of both.
        classes_fake: class of each fake, [N].
    """
    values, intervals = {"fid": frechet_distance(real, fake)}, {}
    if real.shape[1] <= _MANY_FEATURES:
        intervals["fid"] = jackknife(lambda rows: frechet_distance(real[rows], fake[rows]), len(fake))
    kid = kernel_distances(real, fake)
    values["kid"] = float(kid.mean()) if kid.size else math.nan
    if kid.size:
        error = float(kid.std(ddof=1)) / math.sqrt(kid.size)
        intervals["kid"] = student_interval(values["kid"], error, kid.size)
    for name, terms in vars(neighbourhoods(real, fake)).items():
        values[name] = float(terms.mean()) if terms.size else math.nan
        intervals[name] = interval_of_mean(terms, seed)
    values["diversity"] = diversity(fake, classes_fake)
    return values, intervals


def _centred(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both without the mean of x: `cdist` multiplies, and far from the origin that leaves few digits for distances."""
    centre = x.mean(dim=0)
    return x - centre, y - centre


def _reach(x: torch.Tensor, k: int) -> torch.Tensor:
    """Distance of every row to its k-th nearest other row."""
    parts = []
    for start in range(0, len(x), _ROWS_AT_ONCE):
        rows = x[start : start + _ROWS_AT_ONCE]
        distance = torch.cdist(rows, x)
        distance[torch.arange(len(rows)), torch.arange(start, start + len(rows))] = torch.inf
        parts.append(distance.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(parts)


def _sum_of_distances(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = _centred(x, y)
    mode = "donot_use_mm_for_euclid_dist" if x.shape[1] <= 3 else "use_mm_for_euclid_dist_if_necessary"
    return sum(float(torch.cdist(rows, y, compute_mode=mode).sum()) for rows in x.split(_ROWS_AT_ONCE))
