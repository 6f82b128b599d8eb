"""A flat table of figures: one row per figure, distribution, level and class; written as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stylegan2_msp.errors import UserError
from stylegan2_msp.metrics.intervals import Interval

_UNDEFINED = (math.nan, math.nan)


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        figure: what, for example 'mae' or 'second_spearman'.
        of: of whose items: 'fakes', 'reals', or a baseline.
        on: how labels were drawn: 'natural', 'uniform' or 'matched'.
        level: uncertainty asked for, None for all together.
        cls: class, None for all together.
        value, low, high: the figure and its 95 % interval; NaN for undefined.
        count: items behind it.
    """

    figure: str
    of: str
    on: str
    level: float | None
    cls: int | None
    value: float
    low: float
    high: float
    count: int


_NAMES = tuple(item.name for item in fields(Row))


@dataclass
class Results:
    """Figures in the order in which they were found, and ``about``: snapshot, data, settings, machine."""

    about: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(
        self,
        figure: str,
        value: float,
        interval: Interval = _UNDEFINED,
        *,
        count: int,
        of: str = "fakes",
        on: str,
        level: float | None = None,
        cls: int | None = None,
    ) -> None:
        """Appends one figure."""
        level = None if level is None else round(level, 6)
        self.rows.append(Row(figure, of, on, level, cls, float(value), *interval, count))

    def add_all(self, values: Mapping[str, float], intervals: Mapping[str, Interval], **where: Any) -> None:
        """Appends figures by name; ``where`` as for `add`."""
        for name, value in values.items():
            self.add(name, value, intervals.get(name, _UNDEFINED), **where)

    def find(
        self, figure: str, on: str, of: str = "fakes", level: float | None = None, cls: int | None = None
    ) -> Row | None:
        """The figure, or None when it was not measured."""
        wanted = (figure, of, on, None if level is None else round(level, 6), cls)
        return next((r for r in self.rows if (r.figure, r.of, r.on, r.level, r.cls) == wanted), None)

    def value(self, figure: str, on: str, **where: Any) -> float:
        """The figure's value; NaN when it was not measured or is undefined."""
        row = self.find(figure, on, **where)
        return math.nan if row is None else row.value

    def levels(self, figure: str, on: str, of: str = "fakes") -> list[Row]:
        """The figure at every level, all classes together."""
        return [r for r in self.rows if (r.figure, r.on, r.of, r.cls) == (figure, on, of, None) and r.level is not None]

    def to_json(self) -> str:
        """JSON with one figure per line; null stands for undefined."""
        about = json.dumps(self.about, indent=2)
        rows = ",\n    ".join(json.dumps(_finite(asdict(row))) for row in self.rows)
        return f'{{\n  "about": {about},\n  "figures": [\n    {rows}\n  ]\n}}\n'

    def to_csv(self) -> str:
        """CSV with a header; an empty cell stands for undefined, and for all levels or all classes."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_NAMES)
        for row in self.rows:
            writer.writerow(["" if value is None else value for value in _finite(asdict(row)).values()])
        return text.getvalue()

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """Reads the JSON file that `evaluate` wrote.

        Raises:
            UserError: it is missing or is no such file.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(dict(content["about"]), [_row(**found) for found in content["figures"]])
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); run `evaluate` first") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: is not a results.json of `evaluate`; make it again") from None


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _row(**found: Any) -> Row:
    return Row(**found | {name: _nan(found[name]) for name in ("value", "low", "high")})


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
