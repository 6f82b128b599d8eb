"""Do a classifier's probabilities say how often it is right? Pure figures of merit, numpy in and out.

probs are class probabilities [N, K], classes the true classes int [N]; ValueError where they are not. NaN gives NaN.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BINS = 15
_LEAST = 1e-12  # of a probability under the logarithm
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Bin:
    """Samples whose confidence (largest probability) lies in (low, high]: how many, mean confidence, share right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(probs: npt.ArrayLike, classes: npt.ArrayLike, bins: int = BINS) -> list[Bin]:
    """The bins of equal width that hold samples, in rising order: the reliability diagram (Guo et al. 2017, fig. 1)."""
    p, y = _checked(probs, classes)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    rows = []
    for k in np.unique(place):
        chosen = place == k
        rows.append(
            Bin(
                float(edges[k]),
                float(edges[k + 1]),
                int(chosen.sum()),
                float(confidence[chosen].mean()),
                float(right[chosen].mean()),
            )
        )
    return rows


def ece(probs: npt.ArrayLike, classes: npt.ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error sum_b n_b / N |accuracy_b - confidence_b| (Guo et al. 2017, equation 3), in [0, 1]."""
    rows = reliability(probs, classes, bins)
    return sum(row.count * abs(row.accuracy - row.confidence) for row in rows) / sum(row.count for row in rows)


def nll(probs: npt.ArrayLike, classes: npt.ArrayLike) -> float:
    """Negative log likelihood E[-log p_y] in nats; p below 1e-12 counts as 1e-12."""
    p, y = _checked(probs, classes)
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], _LEAST)).mean())


def brier(probs: npt.ArrayLike, classes: npt.ArrayLike) -> float:
    """Brier score E[sum_k (p_k - [k = y])^2] (Brier 1950), in [0, 2]."""
    p, y = _checked(probs, classes)
    return float(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1).mean())


def calibration_figures(probs: npt.ArrayLike, classes: npt.ArrayLike) -> dict[str, Any]:
    """Accuracy, ECE, NLL, Brier score and the reliability bins, plain data for JSON."""
    p, y = _checked(probs, classes)
    return {
        "count": len(y),
        "accuracy": float((p.argmax(axis=1) == y).mean()),
        "ece": ece(p, y),
        "nll": nll(p, y),
        "brier": brier(p, y),
        "bins": [asdict(row) for row in reliability(p, y)],
    }


def _checked(probs: npt.ArrayLike, classes: npt.ArrayLike) -> tuple[Array, Array]:
    p, y = np.asarray(probs, dtype=np.float64), np.asarray(classes)
    if p.ndim != 2 or y.shape != (len(p),) or not len(p):
        raise ValueError(f"probabilities must be [N, K] and classes [N] with N > 0, found {p.shape} and {y.shape}")
    whole = np.issubdtype(y.dtype, np.integer)
    if not whole or y.min() < 0 or y.max() >= p.shape[1]:
        found = f"{y.min()} to {y.max()}" if whole else f"{y.dtype}"
        raise ValueError(f"classes must be whole numbers from 0 to {p.shape[1] - 1}, found {found}")
    if (p < -_ROUNDING).any() or (np.abs(p.sum(axis=1) - 1) > _ROUNDING).any():
        raise ValueError("probabilities must be at least 0 and sum to 1 in each row; take the softmax of logits first")
    return p, y
