"""Does the classifier, shown G(z, y, u), answer with about u? Pure figures of merit, and one that measures a generator.

u is the level of uncertainty (MSP or another measure) that was asked for, v what the frozen classifier gives by the same
measure, y the class asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.conditioning import level, make_labels, split_labels
from stylegan2_msp.uncertainty import Measure, Msp

Array = npt.NDArray[Any]
LOWEST_LEVEL = 0.3


def mae(u: npt.ArrayLike, v: npt.ArrayLike) -> float:
    """Mean absolute error E|v - u|; NaN for no pairs."""
    a, b = _pair(u, v)
    return float(np.abs(b - a).mean()) if a.size else math.nan


def bias(u: npt.ArrayLike, v: npt.ArrayLike) -> float:
    """Mean error E[v - u]; NaN for no pairs."""
    a, b = _pair(u, v)
    return float((b - a).mean()) if a.size else math.nan


def spearman(u: npt.ArrayLike, v: npt.ArrayLike) -> float:
    """Spearman's rank correlation in [-1, 1]; NaN where it is undefined (fewer than 2 pairs, or one side constant)."""
    from scipy.stats import spearmanr  # scipy.stats takes long to import

    a, b = _pair(u, v)
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(spearmanr(a, b).statistic)


def class_agreement(classes: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Share of predictions that name the class asked for, in [0, 1]; NaN for no pairs."""
    y, pred = _pair(classes, predictions)
    return float((y == pred).mean()) if y.size else math.nan


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


def bootstrap_interval(
    statistic: Callable[[Array, Array], float], u: npt.ArrayLike, v: npt.ArrayLike, seed: int = 0, count: int = 300
) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %) of ``statistic(u, v)``, resampling pairs; NaN where it is undefined."""
    a, b = _pair(u, v)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, a.size, a.size) for _ in range(count)) if a.size else ()
    values = np.array([statistic(a[rows], b[rows]) for rows in draws])
    values = values[~np.isnan(values)]
    if not values.size:
        return math.nan, math.nan
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


@dataclass(frozen=True)
class Answers:
    """What was asked and what the classifier said of it, one row per generated item.

    Attributes:
        classes: class asked for, int64 [N].
        msp_in: u, float64 [N].
        predictions: class predicted, int64 [N].
        msp_out: v, float64 [N].
    """

    classes: Array
    msp_in: Array
    predictions: Array
    msp_out: Array

    @property
    def spearman(self) -> float:
        """Spearman(u, v)."""
        return spearman(self.msp_in, self.msp_out)

    @property
    def mae(self) -> float:
        """E|v - u|."""
        return mae(self.msp_in, self.msp_out)

    @property
    def class_agreement(self) -> float:
        """Share whose predicted class is the one asked for."""
        return class_agreement(self.classes, self.predictions)


@dataclass(frozen=True)
class ConditionFigures:
    """The figures of one measurement; NaN where one is undefined.

    ``natural``: labels of random real images. ``uniform``: every class at evenly spaced levels of u.
    """

    natural_spearman: float
    natural_mae: float
    natural_class_agreement: float
    uniform_spearman: float
    uniform_mae: float
    uniform_class_agreement: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain data for JSON; None stands for undefined."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def uniform_levels(num_classes: int, count: int = 8, measure: Measure | None = None) -> list[float]:
    """Evenly spaced levels of MSP from max(0.3, 1 / K) to 1; of another measure the certain 0.7 of its range."""
    measure = measure or Msp()
    low, high = measure.low(num_classes), measure.high(num_classes)
    if measure.certain == "high":
        return [float(u) for u in np.linspace(max(LOWEST_LEVEL, low), high, count)]
    return [float(u) for u in np.linspace(low, high - LOWEST_LEVEL, count)]


def uniform_labels(
    num_classes: int, levels: Sequence[float], n: int, generator: torch.Generator, measure: Measure | None = None
) -> torch.Tensor:
    """n labels [n, c_dim] spread evenly over every class at every level; random cells fill the remainder."""
    cells = num_classes * len(levels)
    rest = torch.randperm(cells, generator=generator, device=generator.device)[: n % cells].cpu()
    cell = torch.cat([torch.arange(cells).repeat(n // cells), rest])
    u = torch.tensor(list(levels), dtype=torch.float32)[cell % len(levels)]
    classes = cell // len(levels)
    return make_labels(classes, (measure or Msp()).rows(classes, u), num_classes)


def natural_labels(labels: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """n rows of the real labels [M, K + 1], drawn at random with replacement."""
    rows = torch.randint(len(labels), (n,), generator=generator, device=generator.device)
    return labels[rows.to(labels.device)]


@torch.no_grad()
def collect_answers(
    G: Any,
    classifier: FrozenClassifier,
    labels: torch.Tensor,
    generator: torch.Generator,
    batch: int = 128,
    noise_mode: str = "const",
) -> Answers:
    """Generates one item per label [N, K + 1] and asks the classifier.

    Images are clamped to [-1, 1], as every image file is. z comes from ``generator`` alone; the global random state
    is not touched as long as ``noise_mode`` is 'const' or 'none'.
    """
    device = next(G.parameters()).device
    z = torch.randn(len(labels), G.z_dim, generator=generator, device=generator.device).to(device)
    labels = labels.to(device)
    classes = split_labels(labels, classifier.num_classes)[0].argmax(dim=1)
    predictions, msp_out = [], []
    for begin in range(0, len(labels), batch):
        rows = slice(begin, begin + batch)
        ws = G.mapping(z[rows], labels[rows], skip_w_avg_update=True)
        items = G.synthesis(ws, noise_mode=noise_mode)
        pred, v = classifier.answer(items.clamp(-1, 1) if items.ndim == 4 else items, classes[rows])
        predictions.append(pred.cpu())
        msp_out.append(v.cpu())
    return Answers(
        classes=classes.cpu().numpy(),
        msp_in=level(labels, classifier.num_classes).cpu().double().numpy(),
        predictions=torch.cat(predictions).numpy(),
        msp_out=torch.cat(msp_out).double().numpy(),
    )


def measure_condition(
    G: Any,
    classifier: FrozenClassifier,
    labels_natural: torch.Tensor,
    levels: Sequence[float] | None = None,
    n: int = 512,
    *,
    generator: torch.Generator,
    batch: int = 128,
) -> ConditionFigures:
    """Match between asked and measured MSP, cheap enough for every tick of a training run.

    Args:
        G: generator with z_dim, mapping and synthesis; measured with noise_mode 'const' and without gradients.
        classifier: the frozen classifier.
        labels_natural: labels of the real data [M, K + 1], from which n are drawn.
        levels: levels of u for the uniform grid; by default 8 from max(0.3, 1 / K) to 1.
        n: number of items for the natural and again for the uniform distribution.
        generator: source of every random number; seed it alike to measure alike.
        batch: items per pass.
    """
    K = classifier.num_classes
    natural = natural_labels(labels_natural, n, generator)
    measure = classifier.measure
    uniform = uniform_labels(K, levels or uniform_levels(K, measure=measure), n, generator, measure)
    a = collect_answers(G, classifier, natural, generator, batch)
    b = collect_answers(G, classifier, uniform, generator, batch)
    return ConditionFigures(a.spearman, a.mae, a.class_agreement, b.spearman, b.mae, b.class_agreement)


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(a), np.asarray(b)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"both sides must be one-dimensional and equally long, found {x.shape} and {y.shape}")
    return x, y
