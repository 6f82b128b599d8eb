"""Archives: a zip or folder of PNGs (or points.npy) with dataset.json, opened only when everything in it is right."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from stylegan2_msp.data.archive_writer import CLASSIFIER_FILE, PROBABILITIES_FILE, manifest_limit, write_archive
from stylegan2_msp.data.arrays import check_probs, parse_array
from stylegan2_msp.data.manifest import Manifest, parse_manifest
from stylegan2_msp.data.members import Members, Reader
from stylegan2_msp.data.memory import room
from stylegan2_msp.data.pixels import MAX_FILE_BYTES, decode, is_image_name
from stylegan2_msp.data.samples import Annotation, Corruption, Samples, default_names
from stylegan2_msp.errors import UserError
from stylegan2_msp.progress import track

__all__ = ["CLASSIFIER_FILE", "PROBABILITIES_FILE", "Archive", "open_archive", "write_archive"]

_MAX_ARRAY_BYTES = 8 << 30
_MAX_CLASSIFIER_BYTES = 4 << 30
_CHUNK = 256


@dataclass(frozen=True)
class Archive:
    """An archive whose directory and labels have been checked; images are decoded (and checked) when loaded.

    Attributes:
        path: the zip or folder.
        kind: 'images' or 'points'.
        names: the samples, sorted; this is the order of everything else.
        img_resolution, img_channels: size of every image; 0 for points.
        classes: int64 [N], or None when unlabelled.
        u: the uncertainty, float32 [N], or [N, K] for the softmax vector; None when not annotated.
        num_classes: K; 0 when unlabelled.
        class_names: one name per class, where given.
        uncertainty: name of the measure in ``u`` ('msp', ...), when annotated.
        probs: float32 [N, K] where given.
        corruption: what was done to each image, where given.
        split: 'train' or 'test', where given.
        classifier_bytes: file of the classifier that made the annotation, where given.
    """

    path: Path
    kind: str
    names: list[str]
    img_resolution: int
    img_channels: int
    classes: np.ndarray | None
    u: np.ndarray | None
    num_classes: int
    class_names: list[str] | None
    uncertainty: str | None
    probs: np.ndarray | None = field(repr=False)
    corruption: Corruption | None = field(repr=False)
    split: str | None
    classifier_bytes: bytes | None = field(repr=False)
    members: Members = field(repr=False)
    points: np.ndarray | None = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_images(self) -> int:
        """Number of samples."""
        return len(self.names)

    @property
    def annotated(self) -> bool:
        """Whether every sample has an uncertainty."""
        return self.u is not None

    @cached_property
    def content_sha256(self) -> str:
        """Hash of everything in the archive, for naming what is derived from it."""
        return self.members.content_sha256()

    def labels(self) -> np.ndarray:
        """Label vectors [class one-hot, u], float32 [N, K + 1], or [N, 2 K] for the softmax vector.

        Raises:
            UserError: the archive is not annotated.
        """
        if self.u is None or self.classes is None:
            found = "has classes but no uncertainty" if self.classes is not None else "has no labels"
            raise UserError(f"{self.path}: {found}; run 'dataset_tool.py annotate --data {self.path}' first")
        one_hot = np.zeros((len(self), self.num_classes), dtype=np.float32)
        one_hot[np.arange(len(self)), self.classes] = 1
        return np.concatenate([one_hot, self.u.reshape(len(self), -1)], axis=1)

    def named_right(self) -> np.ndarray | None:
        """Whether the classifier names each sample as its class, bool [N]; None without classes or probabilities."""
        if self.probs is None or self.classes is None:
            return None
        return self.probs.argmax(axis=1) == self.classes

    def levels(self) -> np.ndarray:
        """One number of uncertainty per sample, float32 [N]: ``u``, or of softmax vectors the class's probability.

        Raises:
            UserError: the archive is not annotated.
        """
        rows = self.labels()[:, self.num_classes :]
        return rows[:, 0] if rows.shape[1] == 1 else rows[np.arange(len(self)), self.classes]

    def load_images(
        self, progress: bool = True, workers: int = 2, rows: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Every image, or those at ``rows``, uint8 [N, C, H, W], decoded by ``workers`` threads, into ``out`` if given.

        ``rows`` are positions, or a mask [N].

        Raises:
            UserError: an image is damaged or differs in size or channels, or memory does not suffice.
        """
        if self.kind != "images":
            raise UserError(f"{self.path}: holds 2-D points, expected images; choose another archive")
        rows = np.arange(len(self)) if rows is None else np.arange(len(self))[rows]
        size = (len(rows), self.img_channels, self.img_resolution, self.img_resolution)
        images = room(size, str(self.path)) if out is None else out

        def one(start: int) -> None:
            part = rows[start : start + _CHUNK].tolist()
            with self.members.reading() as read:
                for place, row in enumerate(part, start):
                    images[place] = self.image(row, read)

        starts = range(0, len(rows), _CHUNK)
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            done = pool.map(one, starts)
            for _ in track(done, "reading images", len(rows), "images", step=_CHUNK) if progress else done:
                pass
        return images

    def image(self, row: int, read: Reader) -> np.ndarray:
        """One image, uint8 [C, H, W], through a reader of ``members``.

        Raises:
            UserError: it is damaged or differs from the others in size or channels.
        """
        name = self.names[row]
        size = (self.img_channels, self.img_resolution, self.img_resolution)
        return _same_size(decode(read(name, MAX_FILE_BYTES), f"{self.path}: {name!r}"), size, self, name)

    def load_points(self) -> np.ndarray:
        """Every point, float32 [N, 2].

        Raises:
            UserError: the archive holds images.
        """
        if self.points is None:
            raise UserError(f"{self.path}: holds images, expected 2-D points; choose another archive")
        return self.points.copy()

    def load(self, progress: bool = True) -> Samples:
        """Everything, in the form that sources, corruption and annotation share.

        Images get new names where one is no PNG or is named in another encoding than the machine's. Without class names
        classes are named by their numbers, so that one without samples still counts.

        Raises:
            UserError: as `load_images`.
        """
        annotation = None
        if self.u is not None:
            annotation = Annotation(self.u, self.probs, self.classifier_bytes, self.uncertainty or "msp")
        keep = self.kind == "points" or all(name.endswith(".png") and _is_text(name) for name in self.names)
        numbers = [str(index) for index in range(self.num_classes)]
        return Samples(
            data=self.load_images(progress) if self.kind == "images" else self.load_points(),
            names=self.names if keep else default_names("images", len(self)),
            classes=self.classes,
            class_names=self.class_names or numbers or None,
            split=self.split,
            corruption=self.corruption,
            annotation=annotation,
        )


def open_archive(path: str | Path) -> Archive:
    """Opens an archive and checks its directory, its labels and its first image.

    Raises:
        UserError: anything in it is not as it should be; one line with file, field, what was found and what to do.
    """
    members = Members(Path(path))
    with members.reading() as read:
        points = None
        if "points.npy" in members:
            points = parse_array(read("points.npy", _MAX_ARRAY_BYTES), (None, 2), f"{path}: points.npy")
            names = default_names("points", len(points))
        else:
            names = [name for name in members.names if is_image_name(name)]
        if not names:
            raise UserError(f"{path}: holds no images and no points; make an archive with the dataset tool")
        channels, resolution = 0, 0
        if points is None:
            channels, resolution = decode(read(names[0], MAX_FILE_BYTES), f"{path}: {names[0]!r}").shape[:2]
        manifest = _manifest(members, read, names)
        probs, classifier = _annotation_files(members, read, names, manifest)
    return Archive(
        path=Path(path),
        kind="images" if points is None else "points",
        names=names,
        img_resolution=resolution,
        img_channels=channels,
        classes=manifest.classes,
        u=manifest.u,
        num_classes=manifest.num_classes,
        class_names=manifest.class_names,
        uncertainty=manifest.uncertainty,
        probs=probs,
        corruption=manifest.corruption,
        split=manifest.split,
        classifier_bytes=classifier,
        members=members,
        points=points,
    )


def _manifest(members: Members, read: Reader, names: list[str]) -> Manifest:
    if "dataset.json" not in members:
        return Manifest()
    return parse_manifest(read("dataset.json", manifest_limit(len(names))), names, f"{members.path}: dataset.json")


def _annotation_files(
    members: Members, read: Reader, names: list[str], manifest: Manifest
) -> tuple[np.ndarray | None, bytes | None]:
    """Probabilities and classifier file of an annotated archive."""
    probs, classifier = None, None
    for file in (manifest.probs_file, manifest.classifier_file):
        if file is not None and file not in members:
            raise UserError(f"{members.path}: {file!r}, which dataset.json names, is missing; annotate again")
    if manifest.probs_file is not None and manifest.u is not None:
        where = f"{members.path}: {manifest.probs_file}"
        probs = parse_array(read(manifest.probs_file, _MAX_ARRAY_BYTES), (len(names), manifest.num_classes), where)
        check_probs(probs, manifest, names, where)
    if manifest.classifier_file is not None:
        classifier = read(manifest.classifier_file, _MAX_CLASSIFIER_BYTES)
        if hashlib.sha256(classifier).hexdigest() != manifest.classifier_sha256:
            found = "does not have the sha256 that dataset.json gives"
            raise UserError(f"{members.path}: {manifest.classifier_file!r} {found}; annotate again")
    return probs, classifier


def _is_text(name: str) -> bool:
    """Whether a file name can be written down elsewhere."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _same_size(pixels: np.ndarray, size: tuple[int, int, int], archive: Archive, name: str) -> np.ndarray:
    if pixels.shape != size:
        found = f"{pixels.shape[0]} channels, {pixels.shape[2]}x{pixels.shape[1]} pixels"
        wanted = f"{size[0]} and {size[2]}x{size[1]} as in {archive.names[0]!r}"
        raise UserError(
            f"{archive.path}: {name!r} has {found}, expected {wanted}; convert with 'dataset_tool.py folder'"
        )
    return pixels
