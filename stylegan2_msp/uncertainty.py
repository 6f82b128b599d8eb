"""Measures of a classifier's uncertainty: each says how sure the classifier is of one image, as numbers in a range.

K is the number of classes, p = softmax(logits). All but the full softmax vector give one number u per image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch

from stylegan2_msp.errors import UserError

_FLAT = 1e-5  # a range that is rounding error
_OUTLIERS = 0.001  # share of the data at either end that a recorded range leaves out


def msp(probs: torch.Tensor) -> torch.Tensor:
    """Maximum softmax probability max_k p_k (Le Coz 2023, section 2): [N, K] -> [N], each in [1 / K, 1].

    The floating point maximum of a softmax may fall below 1 / K or above 1 by a rounding error; it is kept inside.
    """
    return probs.amax(dim=1).clamp(1.0 / probs.shape[1], 1.0)


@dataclass(frozen=True)
class Measure:
    """One measure; its fields are what it learned from the annotated data (most have none).

    Attributes:
        name: as ``--uncertainty`` takes it and archives record it.
        title: for people: axes, rows of grids.
        certain: 'high' or 'low', the end of the range at which the classifier is sure.
        draws: forward passes with dropout that it wants; 0 for one plain pass.
        of_class: whether it depends on the class that the image should have.
        from_probs: whether p alone determines it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    certain: ClassVar[str] = "high"
    draws: ClassVar[int] = 0
    of_class: ClassVar[bool] = False
    from_probs: ClassVar[bool] = True

    def low(self, num_classes: int) -> float:
        """Least value of a level."""
        return 0.0

    def high(self, num_classes: int) -> float:
        """Greatest value of a level."""
        return 1.0

    def size(self, num_classes: int) -> int:
        """Numbers per image: 1, or K for the full softmax vector."""
        return 1

    def sure(self, num_classes: int) -> float:
        """The level at which the classifier is sure."""
        return self.high(num_classes) if self.certain == "high" else self.low(num_classes)

    def unsure(self, num_classes: int) -> float:
        """The level at the other end."""
        return self.low(num_classes) if self.certain == "high" else self.high(num_classes)

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """The measure, differentiable in the logits.

        Args:
            logits: [N, K]; [T, N, K] where ``draws`` = T > 0.
            classes: int64 [N], needed where ``of_class``.

        Returns:
            [N], or [N, K] where ``size`` is K. Measures with a recorded range may leave [0, 1] (labels are clipped).
        """
        raise NotImplementedError

    def level(self, values: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """One number [N] for each image's values ([N] or [N, K]) and class [N]."""
        return values

    def rows(self, classes: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """What a label vector holds after the class for a level [N]: [N, ``size``]."""
        return levels[:, None]

    def fitted(self, logits: torch.Tensor, classes: torch.Tensor) -> Measure:
        """The measure with what it learns from the data that is annotated: logits as `__call__` takes, classes [N]."""
        return self

    def settings(self) -> dict[str, Any]:
        """Plain JSON data from which `make_measure` makes it again."""
        return {"name": self.name} | {item.name: getattr(self, item.name) for item in fields(self)}


@dataclass(frozen=True)
class Msp(Measure):
    """Maximum softmax probability max_k p_k in [1/K, 1], high when sure (Hendrycks and Gimpel 2017; Le Coz 2023)."""

    name = "msp"
    title = "MSP"

    def low(self, num_classes: int) -> float:
        """1 / K."""
        return 1 / num_classes

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """max_k p_k."""
        return msp(logits.softmax(dim=1))


@dataclass(frozen=True)
class Entropy(Measure):
    """Normalised entropy -sum_k p_k log p_k / log K in [0, 1], low when sure (Shannon 1948)."""

    name = "entropy"
    title = "entropy"
    certain = "low"

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """-sum_k p_k log p_k / log K."""
        return (entropy(logits) / math.log(logits.shape[-1])).clamp(0, 1)


@dataclass(frozen=True)
class Margin(Measure):
    """Margin p_(1) - p_(2) between the two largest probabilities in [0, 1], high when sure (Scheffer et al. 2001)."""

    name = "margin"
    title = "margin"

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """p_(1) - p_(2)."""
        first, second = logits.softmax(dim=1).topk(2, dim=1).values.unbind(dim=1)
        return (first - second).clamp(0, 1)


@dataclass(frozen=True)
class TrueClass(Measure):
    """Probability p_y of the image's own class in [0, 1], high when sure (Corbiere et al. 2019, equation 2)."""

    name = "true_class"
    title = "true class probability"
    of_class = True

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """p_y."""
        return _of_class(logits.softmax(dim=1), classes).clamp(0, 1)


@dataclass(frozen=True)
class _Ranged(Measure):
    """A quantity without a natural range: u = (quantity - lowest) / (highest - lowest), of which labels keep [0, 1].

    Attributes:
        lowest, highest: what counts as 0 and 1; recorded at annotation.
    """

    lowest: float = 0.0
    highest: float = 1.0

    certain = "low"
    from_probs = False

    def quantity(self, logits: torch.Tensor) -> torch.Tensor:
        """What is measured, in its own unit, [N]."""
        raise NotImplementedError

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """(quantity - lowest) / (highest - lowest)."""
        return (self.quantity(logits) - self.lowest) / (self.highest - self.lowest)

    def fitted(self, logits: torch.Tensor, classes: torch.Tensor) -> Measure:
        """Range from the 0.1 % to the 99.9 % quantile of the data."""
        found = torch.sort(self.quantity(logits).double()).values
        skipped = int(_OUTLIERS * len(found))
        lowest, highest = float(found[skipped]), float(found[-1 - skipped])
        if not highest - lowest > _FLAT:
            raise UserError(f"--uncertainty {self.name}: is {highest:.6g} for all of the data; choose another measure")
        return replace(self, lowest=lowest, highest=highest)


@dataclass(frozen=True)
class Energy(_Ranged):
    """Free energy E = -T log sum_k exp(logit_k / T), T = 1, low when sure (Liu et al. 2020, equation 4).

    It has no bounds: u = 0 and 1 are the 0.1 % and 99.9 % quantiles of the annotated data.
    """

    name = "energy"
    title = "energy"

    def quantity(self, logits: torch.Tensor) -> torch.Tensor:
        """-log sum_k exp(logit_k), [N]."""
        return -logits.logsumexp(dim=1)


@dataclass(frozen=True)
class MutualInformation(_Ranged):
    """I = H[mean_t p_t] - mean_t H[p_t] over T = 20 dropout masks, low when sure.

    Houlsby et al. 2011, equation 2; masks by dropout as in Gal and Ghahramani 2016. I lies in [0, log K] and is mostly
    far below: u = 0 and 1 are the 0.1 % and 99.9 % quantiles of the annotated data.
    """

    name = "mutual_information"
    title = "mutual information"
    draws = 20

    def quantity(self, logits: torch.Tensor) -> torch.Tensor:
        """H[mean_t p_t] - mean_t H[p_t] in nats of logits [T, N, K], [N]."""
        log_p = logits.log_softmax(dim=2)
        log_mean = log_p.logsumexp(dim=0) - math.log(len(log_p))
        return -(log_mean.exp() * log_mean).sum(dim=1) - entropy(logits).mean(dim=0)


@dataclass(frozen=True)
class Softmax(Measure):
    """The whole vector p, K numbers that sum to 1 (Le Coz 2023, section 4: future work); its level is p_y.

    A level u of class y stands for the vector with p_y = u whose other classes share 1 - u as they do on average in
    real images of class y.

    Attributes:
        shares: of class y (row) the shares of the other classes, [K, K] with zeros on the diagonal and rows that sum
            to 1; recorded at annotation. Without it they are equal.
    """

    shares: tuple[tuple[float, ...], ...] = ()

    name = "softmax"
    title = "probability of the class"
    of_class = True

    def size(self, num_classes: int) -> int:
        """K."""
        return num_classes

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """p, [N, K]."""
        return logits.softmax(dim=1)

    def level(self, values: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """p_y, [N]."""
        return _of_class(values, classes)

    def rows(self, classes: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """p with p_y = level, [N, K]."""
        if not self.shares:
            raise ValueError("a softmax vector for a level needs the shares of the other classes; fit the measure")
        table = torch.tensor(self.shares, dtype=levels.dtype, device=levels.device)
        own = torch.nn.functional.one_hot(classes, len(table)).to(levels.dtype)
        return own * levels[:, None] + table[classes] * (1 - levels[:, None])

    def fitted(self, logits: torch.Tensor, classes: torch.Tensor) -> Measure:
        """Shares from the mean of p over the images of each class."""
        count = logits.shape[1]
        p = logits.double().softmax(dim=1)
        total = torch.full((count, count), 1e-12, dtype=p.dtype, device=p.device).index_add_(0, classes, p)
        total.fill_diagonal_(0)
        table = (total / total.sum(dim=1, keepdim=True)).float()
        return replace(self, shares=tuple(tuple(row) for row in table.tolist()))


MEASURES: dict[str, type[Measure]] = {
    found.name: found for found in (Msp, Entropy, Margin, TrueClass, Energy, MutualInformation, Softmax)
}


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """-sum_k p_k log p_k in nats over the last dimension."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


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
    if isinstance(measure, _Ranged) and not measure.lowest < measure.highest:
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


def _of_class(probs: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
    if classes is None:
        raise ValueError("this measure is the probability of a class: give classes, int64 [N]")
    return probs.gather(1, classes[:, None].to(probs.device))[:, 0]
