"""What a generator can be asked for: requests, the conditions that it takes, and what is wrong with others."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, cast

import numpy as np

from stylegan2_msp.agreement import ClassAgreement
from stylegan2_msp.errors import UserError
from stylegan2_msp.snapshot import Snapshot
from stylegan2_msp.uncertainty import MEASURES, Measure

MAX_SEED = 2**32 - 1
_SLACK = 1e-6  # 1 / K cannot be typed exactly
Level = float | tuple[float, ...]  # of a softmax condition also a whole vector


@dataclass(frozen=True)
class Request:
    """One item to generate: ``cls`` or ``u`` is None where the generator takes no such condition."""

    seed: int
    cls: int | None
    u: Level | None


@dataclass(frozen=True)
class Answer:
    """What the classifier that travelled with the snapshot says of a generated item.

    Attributes:
        prediction: most probable class.
        u: its level of uncertainty by the generator's measure; where that is of a class, of the class asked for.
    """

    prediction: int
    u: float


class Conditions:
    """The conditions of a generator.

    Attributes:
        snapshot: what was loaded.
        classifier: the classifier that travelled along, or None.
        kind: 'images' or 'points'.
        num_classes: K, 0 where neither labels nor a classifier were known.
        class_names: K names.
        takes_class, takes_u: which conditions there are.
        measure: the measure of uncertainty that is one of them.
        agreement: how often the classifier names reals of each class and level as that class, where that is known.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.classifier = snapshot.classifier
        info: dict[str, Any] = snapshot.info
        c_dim = int(cast(Any, snapshot.G).c_dim)
        self.kind = str(info.get("kind") or "images")
        self.num_classes = int(info.get("num_classes") or 0)
        names = info.get("class_names")
        self.class_names = [str(n) for n in names] if names else [str(k) for k in range(self.num_classes)]
        self.takes_class, self.takes_u = c_dim > 0, info.get("condition", "class+msp") == "class+msp" and c_dim > 0
        self.measure = _measure(snapshot)
        self.agreement = _agreement(snapshot, self.num_classes)
        wanted = (self.num_classes + self.takes_u * self.measure.size(self.num_classes)) * self.takes_class
        if c_dim != wanted or len(self.class_names) != self.num_classes:
            raise UserError(
                f"{snapshot.path}: a condition of {c_dim} numbers does not fit {self.num_classes} classes "
                f"({len(self.class_names)} names); train or copy the snapshot again"
            )

    def class_number(self, cls: int | str) -> int:
        """The number of a class that is given by its number or its name.

        Raises:
            UserError: no class has this name.
            TypeError: a number that is not whole.
        """
        if not isinstance(cls, str):
            return index(cls)
        cls, *names = (unicodedata.normalize("NFC", some) for some in (cls, *self.class_names))
        if cls not in names:
            raise UserError(f"class {cls!r}: is none of {', '.join(self.class_names[:10])}; give a name or a number")
        return names.index(cls)

    def has_seen(self, level: float, distance: float) -> bool:
        """Whether data that it was trained on may lie within a distance of a level; true where that is not known."""
        return self.agreement is None or self.agreement.may_hold(level, distance)

    def check_class(self, cls: int) -> None:
        """Raises `UserError` unless ``cls`` is a class of this generator."""
        if not self.takes_class:
            raise UserError(f"{self.snapshot.path}: was trained without classes; leave --class out")
        if not 0 <= cls < self.num_classes:
            raise UserError(
                f"--class {cls}: this generator has classes 0 to {self.num_classes - 1} "
                f"({_listed(self.class_names)}); choose among them"
            )

    def check_u(self, u: Level) -> None:
        """Raises `UserError` unless ``u`` is a level (or softmax vector) that the measure can have with K classes."""
        measure, K = self.measure, self.num_classes
        if not self.takes_u:
            raise UserError(
                f"{self.snapshot.path}: was trained without uncertainty; leave --msp (--uncertainty) out or train with "
                "--cond-msp=1"
            )
        if isinstance(u, tuple):
            if measure.size(K) != len(u) or not (min(u) >= -_SLACK and abs(sum(u) - 1) < 1e-3):
                wanted = f"{K} probabilities that sum to 1" if measure.size(K) > 1 else "one number per item"
                raise UserError(f"uncertainty {list(u)[:8]}: must be {wanted}; correct it")
            return
        option = "--msp" if measure.name == "msp" else "--uncertainty"
        low, high = measure.low(K), measure.high(K)
        if measure.name == "msp" and 0 < u < low - _SLACK:
            least = np.ceil(1e4 / K) / 1e4
            raise UserError(
                f"{option} {u:g}: the largest of {K} class probabilities is never below 1/{K}; "
                f"ask for at least {least:g}"
            )
        if measure.name == "msp" and not 0 < u <= 1:  # also refuses NaN
            raise UserError(f"{option} {u:g}: must lie above 0 and not above 1; try 0.7")
        if not low - _SLACK <= u <= high + _SLACK:
            sure = f"{measure.sure(K):g} is certain"
            raise UserError(f"{option} {u:g}: {measure.title} lies in [{low:g}, {high:g}], {sure}; try 0.4")
        if measure.size(K) > 1 and self.classifier is None:
            raise UserError(f"{self.snapshot.path}: holds no classifier; give whole softmax vectors in place of levels")

    def check_called_msp(self) -> None:
        """Raises `UserError` if this generator is conditioned on another measure, so that --msp would mislead."""
        if self.takes_u and self.measure.name != "msp":
            measure, K = self.measure, self.num_classes
            raise UserError(
                f"--msp: {self.snapshot.path} is conditioned on {measure.title} ({measure.sure(K):g} certain, "
                f"{measure.unsure(K):g} uncertain); use --uncertainty 0.4"
            )

    def check(self, wanted: Sequence[Request]) -> None:
        """Raises `UserError` for the first request that this generator cannot answer."""
        for cls in {r.cls for r in wanted if r.cls is not None}:
            self.check_class(cls)
        for u in {r.u for r in wanted if r.u is not None}:
            self.check_u(u)
        for request in wanted:
            if not 0 <= request.seed <= MAX_SEED:
                raise UserError(f"--seeds {request.seed}: must lie between 0 and {MAX_SEED}")


def _agreement(snapshot: Snapshot, num_classes: int) -> ClassAgreement | None:
    """What the snapshot says of the reals that it was trained on; None in those of earlier versions."""
    found = snapshot.info.get("agreement")
    try:
        return None if found is None else ClassAgreement.from_dict(found, num_classes)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{snapshot.path}: its class agreement cannot be read ({error}); copy it again") from None


def _measure(snapshot: Snapshot) -> Measure:
    """The measure of the classifier that travelled along, else the one that the snapshot names."""
    name = str(snapshot.info.get("uncertainty") or "msp")
    if name not in MEASURES:
        raise UserError(f"{snapshot.path}: is conditioned on {name!r}, which this program does not know; update it")
    if snapshot.classifier is None:
        return MEASURES[name]()
    measure = snapshot.classifier.measure
    if measure.name != name:
        raise UserError(
            f"{snapshot.path}: is conditioned on {name}, its classifier gives {measure.name}; train it again"
        )
    return measure


def _listed(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(names[:limit])
    return f"{shown}, ..." if len(names) > limit else shown
