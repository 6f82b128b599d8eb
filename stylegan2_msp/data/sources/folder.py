"""Any folder or zip of images: classes from sub-folders, a dataset.json or a CSV; cropped and resized to one square."""

from __future__ import annotations

import csv
import io
import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from stylegan2_msp.data.manifest import parse_manifest
from stylegan2_msp.data.members import Members, Reader
from stylegan2_msp.data.memory import room
from stylegan2_msp.data.pixels import MAX_FILE_BYTES, RESOLUTIONS, is_hidden, is_image_name, load_pixels, open_image
from stylegan2_msp.data.samples import Samples, default_names
from stylegan2_msp.data.selection import random_subset, split_rows
from stylegan2_msp.errors import UserError
from stylegan2_msp.progress import track

_MAX_TEXT_BYTES = 512 << 20
_CHUNK = 64
_SHOWN = 8
_DIM = 64  # of 255: an image of 16 bits without a brighter pixel uses less than a quarter of its range
_TURNS: dict[Any, Image.Transpose] = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def folder(
    source: str | Path,
    resolution: int | None = None,
    labels: str | Path | None = None,
    split: str = "all",
    max_images: int | None = None,
    seed: int = 0,
) -> Samples:
    """Images of a folder or zip, each cropped to its middle square and resized (Lanczos) to one power of two.

    Classes come from ``labels`` (a CSV with the columns file, class), else from a dataset.json at the root, else from
    the first sub-folder of each image's path; images that lie all at the root have none. Where sub-folders count, a
    line on standard error tells of files of other formats. Grey stays grey when every image is grey, else all are RGB;
    beside grey files those in colour whose three channels are equal are grey, too. Transparent parts become black. 16
    bits are taken as 0 (black) to 65535 (white), and a line tells where most such images are nearly black by that.

    Args:
        source: the folder or zip.
        resolution: sides in pixels; default the largest power of two within the first image.
        labels: the CSV.
        split: 'test' is every fifth image of each class, 'train' the others, 'all' both.
        max_images: keep a random subset of this size.
        seed: seed of the subset.

    Returns:
        uint8 [N, 1 or 3, resolution, resolution].

    Raises:
        UserError: no images, unreadable ones (named), or labels that do not fit them.
    """
    members = Members(Path(source))
    names = [name for name in members.names if is_image_name(name)]
    if not names:
        raise UserError(f"{source}: holds no images (PNG, JPEG, BMP, WebP, TIFF); give a folder or zip that does")
    with members.reading() as read:
        classes, class_names = _classes(members, read, names, labels)
        rows = random_subset(split_rows(classes, len(names), split), max_images, seed, split)
        if not len(rows):
            raise UserError(f"{source}: no images are left in the split {split!r}; use --split all")
        chosen = [names[row] for row in rows]
        size = resolution or _default_resolution(read, members, chosen[0])
        images = _load(members, read, chosen, size)
    return Samples(
        data=images,
        names=default_names("images", len(chosen)),
        classes=None if classes is None else classes[rows],
        class_names=class_names,
        split=None if split == "all" else split,
    )


def square(data: bytes, size: int, where: str) -> np.ndarray:
    """One image file as uint8 [size, size] when grey, else [size, size, 3].

    Raises:
        UserError: it is unreadable.
    """
    img = open_image(data, where)
    load_pixels(img, where)
    img = _plain_mode(_upright(img), where)
    if img.size != (size, size):
        side = min(img.size)
        left, top = (img.width - side) // 2, (img.height - side) // 2
        img = img.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(img)


def _upright(img: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; as it is where these are damaged."""
    try:
        turn = _TURNS.get(img.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow raises errors of many kinds
        return img
    return img if turn is None else img.transpose(turn)


def _plain_mode(img: Image.Image, where: str) -> Image.Image:
    """Grey or RGB; transparent parts on black."""
    if img.mode in ("L", "RGB") and "transparency" not in img.info:
        return img
    if img.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(img).astype(np.uint16) >> 8).astype(np.uint8))
    if img.mode in ("I", "F"):
        raise UserError(f"{where}: has colour mode {img.mode}; convert it to 8 bits per channel")
    if img.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in img.info:
        grey = img.mode in ("L", "LA", "La")
        layer = (img.convert("LA") if img.mode == "La" else img).convert("RGBA")
        img = Image.alpha_composite(Image.new("RGBA", img.size, (0, 0, 0, 255)), layer)
        return img.convert("L" if grey else "RGB")
    return img.convert("L" if img.mode == "1" else "RGB")


def _load(members: Members, read: Reader, names: list[str], size: int) -> np.ndarray:
    """Every image, or one line that names those which cannot be read (the first few)."""
    images = room((len(names), 1, size, size), str(members.path))
    bad: dict[str, UserError] = {}
    peaks: list[int] = []  # brightest pixel of each image of 16 bits
    any_grey = False
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in track(range(0, len(names), _CHUNK), "reading images", len(names), "images", step=_CHUNK):
            some = names[start : start + _CHUNK]
            results = pool.map(_try_square, _try_read(read, some), [size] * len(some), _wheres(members, some))
            for place, found in enumerate(results, start):
                if isinstance(found, UserError):
                    bad[names[place]] = found
                    continue
                pixels, deep = found
                if deep:
                    peaks.append(int(pixels.max()))
                any_grey = any_grey or pixels.ndim == 2
                pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
                if images.shape[1] == 1 and (pixels != pixels[:1]).any():
                    images = _in_colour(images, place, members)
                images[place] = pixels[: images.shape[1]]
    if bad:
        first, *others = bad
        more = ", ".join(map(repr, others[:_SHOWN])) + (", ..." if len(others) > _SHOWN else "")
        line = f" ({len(bad)} of {len(names)} images cannot be used; the others: {more})" if others else ""
        raise UserError(f"{bad[first]}{line}")
    if 2 * sum(peak < _DIM for peak in peaks) > len(peaks):
        print(f"warning: {members.path}: {_nearly_black(peaks)}", file=sys.stderr, flush=True)
    return images if any_grey or images.shape[1] == 3 else _in_colour(images, len(names), members)


def _in_colour(grey: np.ndarray, count: int, members: Members) -> np.ndarray:
    """RGB images of which the first ``count`` are those grey ones, the others not yet set."""
    images = room((len(grey), 3, *grey.shape[2:]), str(members.path))
    images[:count] = grey[:count]
    return images


def _nearly_black(peaks: list[int]) -> str:
    dim = [peak for peak in peaks if peak < _DIM]
    return (
        f"{len(dim)} of its {len(peaks)} images of 16 bits are nearly black (no pixel above {max(dim)} of 255), since "
        "0 to 65535 are taken as black to white; where they hold 12 bits, multiply their values by 16 first"
    )


def _wheres(members: Members, names: list[str]) -> Iterator[str]:
    return (f"{members.path}: {name!r}" for name in names)


def _try_read(read: Reader, names: list[str]) -> Iterator[bytes | UserError]:
    for name in names:
        try:
            yield read(name, MAX_FILE_BYTES * 4)
        except UserError as error:
            yield error


def _try_square(data: bytes | UserError, size: int, where: str) -> tuple[np.ndarray, bool] | UserError:
    """`square`, and whether the file holds grey of 16 bits."""
    if isinstance(data, UserError):
        return data
    try:
        return square(data, size, where), open_image(data, where).mode.startswith("I;16")
    except UserError as error:
        return error


def _default_resolution(read: Reader, members: Members, name: str) -> int:
    img = open_image(read(name, MAX_FILE_BYTES * 4), f"{members.path}: {name!r}")
    fitting = [resolution for resolution in RESOLUTIONS if resolution <= min(img.size)]
    return fitting[-1] if fitting else RESOLUTIONS[0]


def _classes(
    members: Members, read: Reader, names: list[str], labels: str | Path | None
) -> tuple[np.ndarray | None, list[str] | None]:
    """Class index of every image and the classes' names."""
    if labels is not None:
        return _by_name(_csv_classes(Path(labels), names), names)
    if "dataset.json" in members:
        manifest = parse_manifest(read("dataset.json", _MAX_TEXT_BYTES), names, f"{members.path}: dataset.json")
        return manifest.classes, manifest.class_names
    firsts = [name.split("/")[0] if "/" in name else None for name in names]
    if all(first is None for first in firsts):
        return None, None
    for line in (_left_out(members, names), _one_folder(members, names)):
        if line is not None:
            print(f"warning: {line}", file=sys.stderr, flush=True)
    if None in firsts:
        stray = names[firsts.index(None)]
        raise UserError(f"{members.path}: {stray!r} lies in no class folder, others do; move it into one or remove it")
    return _by_name({name: str(first) for name, first in zip(names, firsts, strict=True)}, names)


def _left_out(members: Members, names: list[str]) -> str | None:
    """One line on the files that are not read, and on the folders that are no class for that; None without any."""
    images = set(names)
    others = [name for name in members.names if name not in images and not is_hidden(name)]
    if not others:
        return None
    endings = Counter(PurePosixPath(name).suffix.lower() or "without ending" for name in others)
    counts = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(_SHOWN))
    line = f"{members.path}: left out {counts}; only PNG, JPEG, BMP, WebP and TIFF are read"
    folders, classes = ({name.split("/")[0] for name in some if "/" in name} for some in (others, names))
    if lost := sorted(folders - classes):
        more = ", ..." if len(lost) > _SHOWN else ""
        line += f", so these folders are no classes: {', '.join(lost[:_SHOWN])}{more}"
    return line


def _one_folder(members: Members, names: list[str]) -> str | None:
    """One line where the only class is a folder of folders, which may be the classes; None elsewhere."""
    parts = [name.split("/") for name in names]
    below = sorted({some[1] for some in parts if len(some) > 2})
    if len({some[0] for some in parts}) > 1 or len(below) < 2:
        return None
    more = ", ..." if len(below) > _SHOWN else ""
    return (
        f"{members.path}: all images lie in the one folder {parts[0][0]!r}, which is the only class; if the "
        f"folders in it are the classes ({', '.join(below[:_SHOWN])}{more}), give as --source what is in it"
    )


def _by_name(class_of: dict[str, str], names: list[str]) -> tuple[np.ndarray, list[str]]:
    typed = {name: _as_typed(name) for name in set(class_of.values())}
    class_names = sorted(set(typed.values()), key=lambda text: (len(text), text) if text.isdigit() else (0, text))
    index = {name: place for place, name in enumerate(class_names)}
    return np.array([index[typed[class_of[name]]] for name in names], dtype=np.int64), class_names


def _as_typed(name: str) -> str:
    """A name as keyboards give it: the Finder of macOS stores letters and their accents apart (NFD, not NFC).

    Bytes that are no UTF-8, which no figure could show, are escaped.
    """
    return unicodedata.normalize("NFC", name.encode("utf-8", "backslashreplace").decode())


def _csv_classes(path: Path, names: list[str]) -> dict[str, str]:
    """Class of every image by a CSV file,class (a first row that names no image counts as the header)."""
    try:
        text = path.read_bytes()[:_MAX_TEXT_BYTES].decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except OSError as error:
        raise UserError(f"--labels {path}: cannot be read ({error.strerror}); give a CSV file,class") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--labels {path}: is no CSV in UTF-8 ({error}); give two columns file,class") from error
    known, class_of = {_as_typed(name): name for name in names} | {name: name for name in names}, {}
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not row[1].strip():
            raise UserError(f"--labels {path}: row {number} has {len(row)} columns, expected file,class; correct it")
        name = row[0].strip().replace("\\", "/").removeprefix("./")
        name = known.get(name) or known.get(_as_typed(name)) or name
        if number == 1 and name not in known:
            continue
        if name not in known or name in class_of:
            found = "comes twice" if name in class_of else "is not among the images"
            raise UserError(f"--labels {path}: row {number}: {name!r} {found}; correct it")
        class_of[name] = row[1].strip()
    if missing := next((name for name in names if name not in class_of), None):
        raise UserError(f"--labels {path}: names {len(class_of)} of {len(names)} images, not {missing!r}; add it")
    return class_of
