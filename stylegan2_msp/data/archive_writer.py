"""Writing archives: the same bytes for the same samples, put in place whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from stylegan2_msp.data.arrays import check_probs, parse_array
from stylegan2_msp.data.manifest import parse_manifest
from stylegan2_msp.data.members import stays_inside
from stylegan2_msp.data.pixels import RESOLUTIONS, encode_png, is_image_name
from stylegan2_msp.data.samples import Samples
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import make_folder, put_in_place, replacing
from stylegan2_msp.progress import track

PROBABILITIES_FILE = "probabilities.npy"
CLASSIFIER_FILE = "classifier.safetensors"
_MANIFEST_BASE, _MANIFEST_PER_SAMPLE, _MANIFEST_MOST = 16 << 20, 64 << 10, 4 << 30
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


def manifest_limit(count: int) -> int:
    """Most bytes that the dataset.json of so many samples may have, when it is written and when it is read."""
    return min(_MANIFEST_BASE + _MANIFEST_PER_SAMPLE * count, _MANIFEST_MOST)


def check_destination(dest: str | Path) -> Path:
    """Says before any work is done whether an archive can be written here: a .zip, or a folder that is new or empty.

    Raises:
        UserError: it cannot.
    """
    path = Path(dest)
    if path.name in ("", ".."):
        raise UserError(f"--dest {dest}: is the current folder or one above it; name a .zip or a new folder")
    if path.suffix.lower() == ".zip":
        if path.is_dir():
            raise UserError(f"{path}: is a folder, expected a zip file; remove it or choose another --dest")
    elif path.suffix and not path.is_dir():
        raise UserError(f"{path}: has the suffix {path.suffix}, expected .zip or a folder; choose another --dest")
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: exists and is not an empty folder; remove it or choose another --dest")
    make_folder(path.parent)
    return path


def write_archive(dest: str | Path, samples: Samples, progress: bool = True) -> Path:
    """Writes samples as a zip (name ends in .zip) or a folder that the field's tools and `open_archive` read.

    The bytes depend on the samples alone. What stood at ``dest`` is replaced only by a complete archive; a folder must
    be new or empty.

    Raises:
        UserError: the place cannot be written, the disk is full, or the labels could not be read again (too large, a
            level out of its range, ...); nothing is left behind.
        ValueError: names are not sorted and unique (an archive is read back in the order of its names) or no images'
            names; there are no samples, images of a size that no archive has, points that are not finite, or an
            annotation without classes.
    """
    path = check_destination(dest)
    _check_samples(samples)
    count = len(samples) if samples.kind == "images" else 1
    contents = _contents(samples)
    if progress:
        contents = track(contents, "writing archive", count, "images" if samples.kind == "images" else "files")
    if path.suffix.lower() == ".zip":
        _write_zip(path, contents)
    else:
        _write_folder(path, contents)
    return path


def _check_samples(samples: Samples) -> None:
    names, side = samples.names, samples.img_resolution
    if not len(samples):
        raise ValueError("there are no samples to write")
    if len(names) != len(samples) or names != sorted(set(names)):
        raise ValueError("samples need one name each, sorted and unique")
    if samples.annotation is not None and samples.classes is None:
        raise ValueError("annotated samples need classes, with which every label begins")
    if samples.kind == "points":
        if not np.isfinite(samples.data).all():
            raise ValueError("points must be finite, found NaN or infinity")
        return
    if (name := next((n for n in names if not is_image_name(n) or not stays_inside(n)), None)) is not None:
        raise ValueError(f"{name!r} is no image's name in an archive; make names like 00000/img00000000.png")
    if side not in RESOLUTIONS:
        raise ValueError(f"images of {side}x{side} go into no archive, sides must be a power of two from 4 to 1024")


def _contents(samples: Samples) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file."""
    manifest = _checked_manifest(samples)
    if samples.kind == "images":
        for name, pixels in zip(samples.names, samples.data, strict=True):
            yield name, encode_png(pixels)
    else:
        yield "points.npy", _npy(samples.data)
    note = samples.annotation
    if note is not None and note.probs is not None:
        yield PROBABILITIES_FILE, _npy(note.probs)
    if note is not None and note.classifier_bytes is not None:
        yield CLASSIFIER_FILE, note.classifier_bytes
    yield "dataset.json", manifest


def _checked_manifest(samples: Samples) -> bytes:
    """Bytes of dataset.json, which have been read as `open_archive` will read them."""
    manifest = json.dumps(_manifest(samples), separators=(",", ":")).encode()
    if len(manifest) > (most := manifest_limit(len(samples))):
        found = f"dataset.json would have {len(manifest) / 2**20:.0f} MiB, of {most / 2**20:.0f} allowed"
        raise UserError(
            f"{found}: {samples.num_classes} numbers for each of {len(samples)} samples; take fewer of either"
        )
    read = parse_manifest(manifest, samples.names, "samples")
    if samples.annotation is not None and samples.annotation.probs is not None:
        probs = parse_array(_npy(samples.annotation.probs), (len(samples), read.num_classes), "samples: probabilities")
        check_probs(probs, read, samples.names, "samples: probabilities")
    return manifest


def _manifest(samples: Samples) -> dict[str, Any]:
    manifest: dict[str, Any] = {"labels": _labels(samples)}
    if samples.class_names is not None:
        manifest["class_names"] = samples.class_names
    if samples.split is not None:
        manifest["split"] = samples.split
    if samples.corruption is not None:
        table, kind, severity = samples.corruption.table, samples.corruption.kind, samples.corruption.severity
        manifest["corruption"] = {"table": table, "kind": kind, "severity": severity}
    note = samples.annotation
    if note is not None:
        manifest["uncertainty"] = {"name": note.uncertainty}
        if note.probs is not None:
            manifest["probabilities"] = PROBABILITIES_FILE
        if note.classifier_bytes is not None:
            sha256 = hashlib.sha256(note.classifier_bytes).hexdigest()
            manifest["classifier"] = {"file": CLASSIFIER_FILE, "sha256": sha256}
    return manifest


def _labels(samples: Samples) -> list[list[Any]] | None:
    """[name, [one-hot ..., u ...]] when annotated, [name, class] when only labelled."""
    if samples.classes is None:
        return None
    classes = samples.classes.tolist()
    if samples.annotation is None:
        return [[name, index] for name, index in zip(samples.names, classes, strict=True)]
    rows = samples.annotation.u.reshape(len(samples), -1).astype(np.float64).tolist()
    none = [0] * samples.num_classes
    return [
        [name, [*none[:k], 1, *none[k + 1 :], *row]] for name, k, row in zip(samples.names, classes, rows, strict=True)
    ]


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, dtype="<f4"), allow_pickle=False)
    return buffer.getvalue()


def _write_zip(path: Path, contents: Iterator[tuple[str, bytes]]) -> None:
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, data in contents:
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.create_system = 3  # Unix, whatever the system: the bytes depend on the samples alone
            info.external_attr = 0o644 << 16
            packed = name.endswith((".json", ".npy"))
            info.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            archive.writestr(info, data, compresslevel=6 if packed else None)


def _write_folder(path: Path, contents: Iterator[tuple[str, bytes]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same number, as in containers
    try:
        for name, data in contents:
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(file, "xb") as stream:
                    stream.write(data)
            except FileExistsError:
                raise UserError(
                    f"{path}: {name!r} and another name differ in capitals or accents alone, which are one file on "
                    "this disk; give --dest a .zip"
                ) from None
        if hasattr(os, "sync"):  # not on Windows
            os.sync()
        with suppress(OSError):
            path.rmdir()  # an empty one, which Windows does not replace
        put_in_place(temporary, path)
    except OSError as error:
        found = error.strerror or error
        raise UserError(f"{path}: cannot be written ({found}); free space or choose another place") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)
