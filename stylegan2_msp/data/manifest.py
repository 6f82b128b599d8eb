"""dataset.json: parsed, every field checked."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from stylegan2_msp.data.json_stream import load_object
from stylegan2_msp.data.samples import Corruption
from stylegan2_msp.errors import UserError
from stylegan2_msp.uncertainty import MEASURES, Measure

MAX_CLASSES = 32_768
KINDS = ("none", "blur", "noise")
TOLERANCE = 1e-6
_NUMBERS = {int, float}
_BLOCK = 256  # few enough that the garbage collector has nothing to do
_PAIRS = "expected [[file name, label], ...], one entry per image"


@dataclass(frozen=True)
class Manifest:
    """What dataset.json says, in the order of the archive's sorted names."""

    classes: np.ndarray | None = None
    u: np.ndarray | None = None
    num_classes: int = 0
    class_names: list[str] | None = None
    uncertainty: str | None = None
    split: str | None = None
    corruption: Corruption | None = None
    probs_file: str | None = None
    classifier_file: str | None = None
    classifier_sha256: str | None = None


class ManifestError(UserError):
    """A UserError of one field; carries where it is."""

    def __init__(self, where: str, field: str, found: str, remedy: str) -> None:
        super().__init__(f"{where}: {field}: {found}; {remedy}")


def parse_manifest(data: bytes, names: list[str], where: str) -> Manifest:
    """Reads and checks dataset.json.

    Args:
        data: its bytes.
        names: the archive's samples, sorted; every one must be labelled unless none is.
        where: how to name the file in messages.

    Raises:
        UserError: not JSON, or a field is missing, malformed or out of range.
    """
    content = _parse_json(data, lambda entries: _labels_by_name(entries, names, where), where)
    class_names = _class_names(content, where)
    labels = content.get("labels")
    classes, u, num_classes, measure = None, None, 0, None
    if labels is not None:
        if not isinstance(labels, np.ndarray):
            raise ManifestError(where, "labels", f"found a {type(labels).__name__}", _PAIRS)
        if labels.ndim == 2:
            measure = MEASURES[_measure(content, where)]()
            classes, u, num_classes = _annotated(labels, names, measure, where)
        else:
            classes = labels
            num_classes = len(class_names) if class_names else int(classes.max()) + 1
        if class_names and (len(class_names) != num_classes or int(classes.max()) >= num_classes):
            found = f"{len(class_names)} names, but the labels have {max(num_classes, int(classes.max()) + 1)} classes"
            raise ManifestError(where, "class_names", found, "give one name per class")
    classifier_file, classifier_sha256 = _classifier(content, where)
    return Manifest(
        classes=classes,
        u=u,
        num_classes=num_classes,
        class_names=class_names,
        uncertainty=measure.name if measure is not None else None,
        split=_text(content, "split", where),
        corruption=_corruption(content, len(names), where),
        probs_file=_text(content, "probabilities", where) if u is not None else None,
        classifier_file=classifier_file,
        classifier_sha256=classifier_sha256,
    )


def first_bad(bad: np.ndarray) -> int | None:
    """Index of the first row that is marked, None where none is."""
    return int(bad.argmax()) if bad.any() else None


def _parse_json(data: bytes, take: Callable[[Iterator[Any]], np.ndarray], where: str) -> dict[str, Any]:
    """The object in dataset.json; the entries of its labels go through ``take``."""
    try:
        content = load_object(data, "labels", take)
    except RecursionError as error:
        raise UserError(f"{where}: is nested too deeply; make the archive again") from error
    except (ValueError, MemoryError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise UserError(f"{where}: is not JSON ({error}); correct it or make the archive again") from error
    if not isinstance(content, dict):
        found = f"holds a {type(content).__name__}"
        raise UserError(f"{where}: {found}, expected an object with the key 'labels'; make the archive again")
    return content


def _labels_by_name(entries: Iterator[Any], names: list[str], where: str) -> np.ndarray:
    """The label of every name: int64 [N] of class indices, or float64 [N, numbers per label]."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    seen = np.zeros(len(names), dtype=bool)
    width = None
    while block := list(islice(entries, _BLOCK)):
        places = _places(block, len(parts) * _BLOCK, names, seen, where)
        labels, named = [entry[1] for entry in block], [names[place] for place in places]
        if width is None:
            width = len(labels[0]) if isinstance(labels[0], list) else 0
        part = _rows(labels, named, width, where) if width else _integers(labels, named, where)
        parts.append((np.asarray(places), part))
    if not seen.all():
        missing = names[int(seen.argmin())]
        found = f"{int(seen.sum())} labels for {len(names)} images, none for {missing!r}"
        raise ManifestError(where, "labels", found, _PAIRS)
    table = np.empty((len(names), *parts[0][1].shape[1:]), dtype=parts[0][1].dtype)
    for at, part in parts:
        table[at] = part
    return table


def _places(block: list[Any], first: int, names: list[str], seen: np.ndarray, where: str) -> list[int]:
    """Which of the names each entry labels; they are marked as seen."""
    places: list[int] = []
    place, last = 0, len(names)
    for number, entry in enumerate(block, first):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise ManifestError(where, f"labels[{number}]", "is no pair of file name and label", _PAIRS)
        if place == last or names[place] != entry[0]:  # usually they come in order
            place = bisect_left(names, entry[0])
            if place == last or names[place] != entry[0]:
                raise ManifestError(where, "labels", f"{entry[0]!r} is not in the archive", _PAIRS)
        if seen[place]:
            raise ManifestError(where, "labels", f"{entry[0]!r} comes twice", _PAIRS)
        seen[place] = True
        places.append(place)
        place += 1
    return places


def _integers(labels: list[Any], names: list[str], where: str) -> np.ndarray:
    """Labels that are class indices, int64 [N]."""
    for name, label in zip(names, labels, strict=True):
        field = f"label of {name!r}"
        if type(label) is float:
            found = f"is the single number {label!r}, which readers of this format turn into an integer in silence"
            raise ManifestError(where, field, found, "expected a class index or [class one-hot ..., uncertainty]")
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            remedy = f"expected a class index from 0 to {MAX_CLASSES - 1}, for every image alike"
            raise ManifestError(where, field, f"found {_short(label)}", remedy)
    return np.asarray(labels, dtype=np.int64)


def _annotated(rows: np.ndarray, names: list[str], measure: Measure, where: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Classes, uncertainty [N] or [N, K], and K of labels that are rows [one-hot ..., uncertainty ...]."""
    width = rows.shape[1]
    num_classes = width - 1 if measure.size(2) == 1 else width // 2
    remedy = f"expected [class one-hot ..., {measure.title}], of the same length for every image"
    if not 2 <= num_classes <= MAX_CLASSES or width != num_classes + measure.size(num_classes):
        raise ManifestError(where, f"label of {names[0]!r}", f"found {width} numbers", remedy)
    one_hot, u = rows[:, :num_classes], rows[:, num_classes:]
    if (row := first_bad(((one_hot != 0) & (one_hot != 1)).any(axis=1) | (one_hot.sum(axis=1) != 1))) is not None:
        found = f"its first {num_classes} numbers are not one-hot ({_short(rows[row].tolist())})"
        raise ManifestError(where, f"label of {names[row]!r}", found, remedy)
    low, high = measure.low(num_classes), measure.high(num_classes)
    outside = np.not_equal(u, np.clip(u, low - TOLERANCE, high + TOLERANCE))
    if (row := first_bad(outside.any(axis=1))) is not None:
        found = f"{measure.title} {u[row][outside[row]][0]:.6g} lies outside [{low:.4g}, {high:.4g}]"
        raise ManifestError(where, f"label of {names[row]!r}", found, "annotate again")
    unfit = (np.abs(u.sum(axis=1, keepdims=True) - 1) > 1e-3).any(axis=1)
    if measure.size(num_classes) > 1 and (row := first_bad(unfit)) is not None:
        found = f"its softmax vector sums to {u[row].sum():.6g}"
        raise ManifestError(where, f"label of {names[row]!r}", found, "annotate again")
    u = np.clip(u, low, high).astype(np.float32)
    return one_hot.argmax(axis=1), u[:, 0] if measure.size(num_classes) == 1 else u, num_classes


def _rows(labels: list[Any], names: list[str], width: int, where: str) -> np.ndarray:
    """Labels that are lists of ``width`` finite numbers, float64 [N, width]."""
    remedy = "expected [class one-hot ..., uncertainty], of the same length for every image"
    for name, label in zip(names, labels, strict=True):
        if not isinstance(label, list) or len(label) != width:
            count = f"{len(label)} numbers, {width} elsewhere" if isinstance(label, list) else _short(label)
            raise ManifestError(where, f"label of {name!r}", f"found {count}", remedy)
        if not _NUMBERS.issuperset(map(type, label)):
            raise ManifestError(where, f"label of {name!r}", "holds something that is no number", remedy)
    try:
        rows = np.asarray(labels, dtype=np.float64)
    except OverflowError as error:
        raise ManifestError(where, "labels", "hold a number too large for a float", remedy) from error
    if (row := first_bad(np.logical_not(np.isfinite(rows).all(axis=1)))) is not None:
        raise ManifestError(where, f"label of {names[row]!r}", "holds NaN or infinity", "annotate again")
    return rows


def _class_names(content: dict[str, Any], where: str) -> list[str] | None:
    found = content.get("class_names")
    if found is None:
        return None
    if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
        raise ManifestError(where, "class_names", f"found {_short(found)}", "expected a list of names")
    return found


def _measure(content: dict[str, Any], where: str) -> str:
    found = content.get("uncertainty", {"name": "msp"})
    name = found.get("name") if isinstance(found, dict) else None
    if not isinstance(name, str) or name not in MEASURES:
        remedy = f'expected {{"name": ...}} with one of {", ".join(MEASURES)}'
        raise ManifestError(where, "uncertainty", f"found {_short(found)}", remedy)
    return name


def _text(content: dict[str, Any], key: str, where: str) -> str | None:
    found = content.get(key)
    if found is not None and not (isinstance(found, str) and 0 < len(found) <= 200):
        raise ManifestError(where, key, f"found {_short(found)}", "expected a short text")
    return found


def _classifier(content: dict[str, Any], where: str) -> tuple[str | None, str | None]:
    found = content.get("classifier")
    if found is None:
        return None, None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("file", "sha256")):
        raise ManifestError(
            where, "classifier", f"found {_short(found)}", "expected 'file' and 'sha256'; annotate again"
        )
    return found["file"], found["sha256"]


def _corruption(content: dict[str, Any], count: int, where: str) -> Corruption | None:
    found = content.get("corruption")
    if found is None:
        return None
    kind, severity = (found.get("kind"), found.get("severity")) if isinstance(found, dict) else (None, None)
    remedy = f"expected 'table', and 'kind' and 'severity' with {count} entries each"
    if not isinstance(kind, list) or not isinstance(severity, list) or not isinstance(found.get("table"), str):
        raise ManifestError(where, "corruption", f"found {_short(found)}", remedy)
    if len(kind) != count or len(severity) != count:
        raise ManifestError(where, "corruption", f"found {len(kind)} kinds and {len(severity)} severities", remedy)
    for place, (name, level) in enumerate(zip(kind, severity, strict=True)):
        known = isinstance(name, str) and name in KINDS and type(level) is int and 0 <= level <= 5
        if not known or (name == "none") != (level == 0):
            wrong = f"found kind {_short(name)} with severity {_short(level)}"
            raise ManifestError(where, f"corruption[{place}]", wrong, "expected none 0, or blur or noise with 1 to 5")
    return Corruption(found["table"], kind, severity)


def _short(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > 100:
        return "an enormous integer"
    text = repr(value) if not isinstance(value, (list, dict)) or len(value) < 20 else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
