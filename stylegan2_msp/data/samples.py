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
        classes: int64 [N], or None when unlabelled.
        class_names: one name per class.
        split: which split of its source this is, 'train' or 'test'.
        corruption: what was done to each image.
        annotation: what a classifier says of each sample.
    """

    data: np.ndarray
    names: list[str]
    classes: np.ndarray | None = None
    class_names: list[str] | None = None
    split: str | None = None
    corruption: Corruption | None = None
    annotation: Annotation | None = None

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
        """The samples at these positions, in this order, under fresh names."""
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
