"""What is written down about a classifier: the input it wants, its classes, its architecture and how well it did."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from stylegan2_msp.errors import UserError

ARCHITECTURES = ("cnn", "mlp", "residual", "strided", "program")
DATA_KINDS = ("images", "points")
OUTPUTS = ("logits", "probs")
_MAX_SIZE = 4096
_MAX_CLASSES = 100_000


@dataclass(frozen=True)
class ClassifierSpec:
    """A classifier's description, plain enough for JSON.

    Attributes:
        arch: 'cnn', 'mlp', 'residual' or 'strided' (built in) or 'program' (a traced graph of tensor operators).
        data: what it is shown: 'images' or 'points' (2-D).
        num_classes: K.
        img_channels, img_resolution: the images as the generator makes them; 0 for points.
        input_channels, input_size: the images as the network wants them; 2 and 0 for points.
        input_range: values that black and white (uint8 0 and 255) have before normalisation.
        input_mean, input_std: per channel; the network sees (value - mean) / std.
        output: whether the network's numbers are 'logits' or already 'probs'.
        arch_args: arguments of the architecture (for 'program': the graph).
        uncertainty: settings of the measure that it annotates with, `uncertainty.Measure.settings`.
        recalibration: settings of what is done to its logits, `recalibration.Recalibration.settings`.
        report: training figures, for people.
    """

    arch: str
    data: str
    num_classes: int
    img_channels: int
    img_resolution: int
    input_channels: int
    input_size: int
    input_range: tuple[float, float] = (0.0, 1.0)
    input_mean: tuple[float, ...] = (0.0,)
    input_std: tuple[float, ...] = (1.0,)
    output: str = "logits"
    arch_args: dict[str, Any] = field(default_factory=dict)
    uncertainty: dict[str, Any] = field(default_factory=lambda: {"name": "msp"})
    recalibration: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("arch", self.arch, ARCHITECTURES)
        _one_of("data", self.data, DATA_KINDS)
        _one_of("output", self.output, OUTPUTS)
        _integer("num_classes", self.num_classes, 2, _MAX_CLASSES)
        points = self.data == "points"
        for name in ("img_channels", "img_resolution", "input_size"):
            _integer(name, getattr(self, name), 0 if points else 1, _MAX_SIZE)
        _integer("input_channels", self.input_channels, 1, _MAX_SIZE)
        if (
            not points
            and self.input_channels != self.img_channels
            and (self.img_channels, self.input_channels) != (1, 3)
        ):
            raise UserError(
                f"classifier: it wants {self.input_channels}-channel images and the data has {self.img_channels} "
                "(only grey data for a 3-channel classifier can be adapted); bring one for the data's channels"
            )
        for name, length in (("input_range", (2,)), ("input_mean", self._widths()), ("input_std", self._widths())):
            _numbers(name, getattr(self, name), length)
        if self.input_range[0] >= self.input_range[1]:
            raise UserError(f"classifier: input_range must rise, found {list(self.input_range)}")
        if min(self.input_std) <= 0:
            raise UserError(f"classifier: input_std must be above 0, found {list(self.input_std)}")

    def _widths(self) -> tuple[int, ...]:
        return (1, self.input_channels)

    def to_json(self) -> str:
        """Text that is the same for equal descriptions."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ClassifierSpec:
        """Reads `to_json`'s text; anything unexpected in it raises `UserError`."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise UserError("classifier: its description is not JSON; make the file again") from None
        known = {item.name for item in fields(cls)}
        if not isinstance(values, Mapping) or not set(values) <= known:
            raise UserError("classifier: its description has unknown fields; a newer version may have written it")
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"classifier: its description is incomplete ({error})") from None


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"classifier: {name} must be one of {', '.join(allowed)}, found {value!r}")


def _integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"classifier: {name} must be a whole number in [{low}, {high}], found {value!r}")


def _numbers(name: str, values: object, lengths: tuple[int, ...]) -> None:
    ok = isinstance(values, tuple) and len(values) in lengths
    if not ok or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):  # type: ignore[attr-defined]
        wanted = " or ".join(str(length) for length in sorted(set(lengths)))
        raise UserError(f"classifier: {name} must be {wanted} finite number(s), found {values!r}")
