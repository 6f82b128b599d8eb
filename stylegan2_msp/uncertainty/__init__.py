"""Measures of a classifier's uncertainty: each says how sure the classifier is of one image, as numbers in a range.

K is the number of classes, p = softmax(logits). All but the full softmax vector give one number u per image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from stylegan2_msp.errors import UserError
from stylegan2_msp.uncertainty.measure import Measure
from stylegan2_msp.uncertainty.plain import Entropy, Margin, Msp, TrueClass, msp
from stylegan2_msp.uncertainty.ranged import Energy, MutualInformation, Ranged
from stylegan2_msp.uncertainty.vector import Softmax

__all__ = [
    "MEASURES",
    "Energy",
    "Entropy",
    "Margin",
    "Measure",
    "Msp",
    "MutualInformation",
    "Ranged",
    "Softmax",
    "TrueClass",
    "make_measure",
    "msp",
]

MEASURES: dict[str, type[Measure]] = {
    found.name: found for found in (Msp, Entropy, Margin, TrueClass, Energy, MutualInformation, Softmax)
}


def make_measure(settings: Mapping[str, Any], num_classes: int) -> Measure:
    """The measure that `Measure.settings` describes.

    Raises:
        UserError: unknown, or its settings are not such.
    """
    kind = MEASURES.get(str(settings.get("name"))) if isinstance(settings, Mapping) else None
    values = {name: value for name, value in settings.items() if name != "name"} if kind else {}
    if kind is None or not set(values) <= {item.name for item in fields(kind)}:
        raise UserError(f"classifier: its uncertainty measure {str(settings)[:80]} is not known; annotate again")
    if "shares" in values:
        values["shares"] = _table(values["shares"], num_classes)
    elif not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values.values()):
        raise UserError(f"classifier: the range of its measure {kind.name} is no range; annotate again")
    measure = kind(**values)
    if isinstance(measure, Ranged) and not measure.lowest < measure.highest:
        raise UserError(f"classifier: the range of its measure {kind.name} does not rise; annotate again")
    return measure


def _table(value: Any, num_classes: int) -> tuple[tuple[float, ...], ...]:
    try:
        table = torch.tensor(value, dtype=torch.float64) if value else torch.zeros(num_classes, 0)
    except (TypeError, ValueError, RuntimeError):
        table = torch.zeros(0)
    fits = tuple(table.shape) in ((num_classes, num_classes), (num_classes, 0)) and bool((table >= 0).all())
    if not fits or (table.numel() and bool(((table.sum(dim=1) - 1).abs() > 1e-3).any())):
        raise UserError(f"classifier: the shares of its measure softmax are no {num_classes} rows; annotate again")
    return tuple(tuple(row) for row in table.tolist() if row)
