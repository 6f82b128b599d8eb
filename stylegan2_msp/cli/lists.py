"""Lists and ranges as people type them: ``0-15``, ``1,3,5-7``, ``1.0,0.7``, ``0.3:1.0:8``, class names."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TypeVar

import click

T = TypeVar("T")
MAX_ITEMS = 1_000_000


def parse_seeds(text: str) -> list[int]:
    """``0-15`` or ``1,3,5-7``: whole numbers of at least 0, each once, in the order given.

    Raises:
        click.BadParameter: anything else.
    """
    return _once(seed for part in _parts(text, "--seeds") for seed in _whole(part, "--seeds"))


def parse_levels(text: str, option: str = "--uncertainty") -> list[float]:
    """``0.7``, ``1.0,0.7`` or ``0.3:1.0:8`` (8 evenly spaced levels from 0.3 to 1.0), each in [0, 1], each once.

    An MSP (``option`` '--msp') must lie above 0.

    Raises:
        click.BadParameter: anything else, also NaN.
    """
    levels = []
    for part in _parts(text, option):
        for value in _levels(part, option):
            if not 0 <= value <= 1 or (option == "--msp" and value == 0):  # also refuses NaN
                wanted = "lie above 0 and not above 1" if option == "--msp" else "lie in [0, 1]"
                raise click.BadParameter(f"{option} {text}: must {wanted}, found {value:g}; try 0.7")
            levels.append(round(value, 6))
    return _once(levels)


def parse_classes(text: str, names: Sequence[str]) -> list[int]:
    """Class numbers, class names, lists of them, ranges ``0-4``, ``0:4`` or ``0:8:3`` (3 classes: 0, 4, 8).

    A number is always a class's index, also where names are numbers. Whether it exists is for the generator to say.

    Raises:
        click.BadParameter: neither a number nor a name.
    """
    if (whole := _named(text.strip(), names)) is not None:
        return [whole]
    found: list[int] = []
    for part in _parts(text, "--class"):
        if (named := _named(part, names)) is not None:
            found.append(named)
        elif part.count(":") == 2:
            found += _spaced_classes(part)
        elif re.fullmatch(r"-?\d{1,18}([-:]\d{1,18})?", part):
            found += [int(part)] if re.fullmatch(r"-?\d+", part) else _whole(part.replace(":", "-"), "--class")
        else:
            known = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise click.BadParameter(f"--class {part}: is neither a number nor one of the classes ({known})")
    return _once(found)


def _named(text: str, names: Sequence[str]) -> int | None:
    """The class of this name, capitals and small letters alike where that is one class only, accents however stored."""
    if text.isdigit():
        return None
    text, *names = (unicodedata.normalize("NFC", some) for some in (text, *names))
    if text in names:
        return names.index(text)
    alike = [index for index, name in enumerate(names) if name.casefold() == text.casefold()]
    if len(alike) > 1:
        raise click.BadParameter(f"--class {text}: may be {' or '.join(names[i] for i in alike)}; write it as it is")
    return alike[0] if alike else None


def _parts(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise click.BadParameter(f"{option} {text!r}: has an empty entry; write it like 1,3,5-7 without spare commas")
    return parts


def _whole(part: str, option: str) -> range | list[int]:
    match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part)
    if not match:
        raise click.BadParameter(f"{option} {part[:40]}: is not a whole number of at least 0 or a range like 0-15")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last - first >= MAX_ITEMS:
        raise click.BadParameter(f"{option} {part}: a range rises and holds at most {MAX_ITEMS} numbers")
    return range(first, last + 1)


def _levels(part: str, option: str) -> list[float]:
    try:
        if ":" not in part:
            return [float(part)]
        start_text, stop_text, count_text = part.split(":")
        start, stop, count = float(start_text), float(stop_text), int(count_text)
    except ValueError:
        raise click.BadParameter(
            f"{option} {part}: is not a number or a range START:STOP:COUNT like 0.3:1.0:8"
        ) from None
    if not (2 <= count <= 1000 and math.isfinite(start) and math.isfinite(stop)):
        raise click.BadParameter(f"{option} {part}: START:STOP:COUNT wants two finite numbers and 2 to 1000 levels")
    return [start + (stop - start) * i / (count - 1) for i in range(count)]


def _spaced_classes(part: str) -> list[int]:
    if not re.fullmatch(r"\d+:\d+:\d+", part):
        raise click.BadParameter(f"--class {part}: a range is written START:STOP:COUNT with whole numbers, like 0:8:3")
    start, stop, count = (int(number) for number in part.split(":"))
    if count < 2 or count > MAX_ITEMS or (stop - start) % (count - 1):
        raise click.BadParameter(f"--class {part}: {count} evenly spaced classes from {start} to {stop} are not whole")
    step = (stop - start) // (count - 1)
    return [start + step * i for i in range(count)]


def _once(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))
