"""The one form in which data travel between sources, corruption, annotation and archives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Corruption:
    """What was done to every image: kind 'none', 'blur' or 'noise', and severity 1..5 (0 where nothing was done)."""

    table: str
    kind: list[str]
    severity: list[int]


@dataclass(frozen=True)
class Annotation:
    """What a frozen classifier says of every sample, and that classifier.

    Attributes:
        u: the measure of uncertainty, float32 [N], or [N, K] for the softmax vector.
        probs: the whole probability vectors, float32 [N, K], where known.
        classifier_bytes: the classifier's file, where known.
        uncertainty: name of the measure in ``u``.
    """

    u: np.ndarray
    probs: np.ndarray | None = None
    classifier_bytes: bytes | None = None
    uncertainty: str = "msp"


@dataclass(frozen=True)
class Samples:
    """Images or points with what is known of them.

    Attributes:
        data: images uint8 [N, C, H, W] (C 1 or 3, H = W) or points float32 [N, 2].
        names: file name of each image in its archive, sorted.
        classes: int64 [N] from 0, or None when unlabelled.
        class_names: one name per class.
        split: which split of its source this is, 'train' or 'test'.
        corruption: what was done to each image.
        annotation: what a classifier says of each sample.

    Raises:
        ValueError: data or classes are of another type or shape, or a class has no name.
    """

    data: np.ndarray
    names: list[str]
    classes: np.ndarray | None = None
    class_names: list[str] | None = None
    split: str | None = None
    corruption: Corruption | None = None
    annotation: Annotation | None = None

    def __post_init__(self) -> None:
        dtype, shape = getattr(self.data, "dtype", type(self.data).__name__), np.shape(self.data)
        square = len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]
        if not (dtype == np.uint8 and square) and not (dtype == np.float32 and shape[1:] == (2,)):
            raise ValueError(
                "samples must be images uint8 [N, C, H, W] with C 1 or 3 and H = W, or points float32 [N, 2], "
                f"found {dtype} {list(shape)}"
            )
        if self.classes is None:
            return
        dtype, of = getattr(self.classes, "dtype", type(self.classes).__name__), np.shape(self.classes)
        if dtype != np.int64 or of != shape[:1]:
            raise ValueError(f"classes must be int64 [{shape[0]}], found {dtype} {list(of)}")
        low, high = self.classes.min(initial=0), self.classes.max(initial=-1)
        if low < 0:
            raise ValueError(f"classes must be numbered from 0, found {low}")
        if self.class_names is not None and not (isinstance(self.class_names, list) and high < len(self.class_names)):
            raise ValueError(f"class_names must be a list that names the classes 0 to {high}, found {self.class_names}")

    def __len__(self) -> int:
        return len(self.data)

    @property
    def kind(self) -> str:
        """'images' or 'points'."""
        return "images" if self.data.ndim == 4 else "points"

    @property
    def img_resolution(self) -> int:
        """Height and width in pixels; 0 for points."""
        return int(self.data.shape[2]) if self.kind == "images" else 0

    @property
    def img_channels(self) -> int:
        """1 or 3; 0 for points."""
        return int(self.data.shape[1]) if self.kind == "images" else 0

    @property
    def num_classes(self) -> int:
        """K; 0 when unlabelled."""
        if self.classes is None:
            return 0
        return len(self.class_names) if self.class_names else int(self.classes.max(initial=-1)) + 1

    def take(self, index: np.ndarray) -> Samples:
        """The samples at these positions (or where a mask [N] is true), in this order, under fresh names."""
        index = np.arange(len(self))[index]
        corruption, note = self.corruption, self.annotation
        if corruption is not None:
            rows = index.tolist()
            corruption = replace(
                corruption, kind=[corruption.kind[i] for i in rows], severity=[corruption.severity[i] for i in rows]
            )
        if note is not None:
            note = replace(note, u=note.u[index], probs=None if note.probs is None else note.probs[index])
        changes: dict[str, Any] = {"data": self.data[index], "corruption": corruption, "annotation": note}
        changes["classes"] = None if self.classes is None else self.classes[index]
        changes["names"] = default_names(self.kind, len(index))
        return replace(self, **changes)

    def with_flips(self) -> Samples:
        """The images followed by their mirror images, under fresh names and without annotation.

        A flipped image needs an uncertainty of its own; this is how a data set gets x-flips.
        """
        both = self.take(np.tile(np.arange(len(self)), 2))
        data = both.data.copy()
        data[len(self) :] = data[len(self) :, :, :, ::-1]
        return replace(both, data=data, annotation=None)


def default_names(kind: str, count: int) -> list[str]:
    """The field's names: 00000/img00000000.png, a thousand images per folder; point00000000 for points."""
    if kind == "points":
        return [f"point{i:08d}" for i in range(count)]
    return [f"{i // 1000:05d}/img{i:08d}.png" for i in range(count)]
