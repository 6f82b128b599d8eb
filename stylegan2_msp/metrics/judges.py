"""The judges: a second classifier and a probe of corruption kinds, trained on an archive once and kept beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.classifiers.train import RECIPES, split_validation, to_float, train_classifier
from stylegan2_msp.data.archive import Archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import replacing
from stylegan2_msp.metrics.observing import Observers
from stylegan2_msp.uncertainty import Measure, Msp

Array = npt.NDArray[Any]
KINDS = ("none", "blur", "noise")
_SEED = 20231  # not the seed of any other classifier that this program trains by default
_FITTED_ON = 2000
_SECOND: dict[str, tuple[str, Mapping[str, int]]] = {
    "images": ("residual", {}),
    "points": ("mlp", {"hidden": 32, "num_hidden": 3}),
}
_PROBE: tuple[str, Mapping[str, int]] = ("cnn", {"width": 8, "hidden": 32})


@dataclass(frozen=True)
class Judges:
    """Who judges beside the classifier that the condition is about.

    Attributes:
        second: of another architecture and seed, trained on the true labels of the same data; its uncertainty is
            taken by the same measure (by MSP where the measure wants dropout, which it has not).
        held_out: positions of the data that it was not trained on, int64.
        probe: tells the `KINDS` of corruption apart; None where the archive does not know them.
        unit: root mean square deviation of the second classifier's features from their mean, over some of the data;
            features are given in this unit so that their figures have a common scale.
    """

    second: FrozenClassifier
    held_out: Array
    probe: FrozenClassifier | None
    unit: float = 1.0


def make_judges(archive: Archive, data: Array, measure: Measure, device: torch.device) -> Judges:
    """Takes the judges from the files beside the archive, or trains them and keeps them there.

    Args:
        archive: with classes.
        data: its items, as `Archive.load_images` or `load_points` gives them.
        measure: by which the second classifier's uncertainty is taken.
        device: where to train and to judge.

    Raises:
        UserError: no class has two items, so there are too few to train on.
    """
    assert archive.classes is not None
    items, classes = torch.from_numpy(data), torch.from_numpy(archive.classes)
    K = archive.num_classes
    arch, args = _SECOND[archive.kind]

    def train(labels: torch.Tensor, count: int, arch: str, args: Mapping[str, int]) -> FrozenClassifier:
        return train_classifier(items, labels, count, _SEED, device, arch=arch, arch_args=args)

    second = _kept(archive, "second", arch, args, lambda: train(classes, K, arch, args)).to(device)
    _, held_out = split_validation(classes, K, torch.Generator().manual_seed(_SEED))
    probe, kinds = None, corruption_kinds(archive)
    if kinds is not None:
        arch, args = _PROBE
        probe = _kept(archive, "probe", arch, args, lambda: train(torch.from_numpy(kinds), len(KINDS), arch, args))
        probe = probe.to(device)
    rows = torch.linspace(0, len(items) - 1, min(_FITTED_ON, len(items))).long()
    x, own = to_float(items[rows].to(device)), classes[rows].to(device)
    second = _measuring(second, measure, x, own)
    with torch.no_grad():
        features = Observers(second, second).look(x, own)["features"]
    unit = float(features.std(dim=0, correction=0).square().mean().sqrt())
    return Judges(second, held_out.numpy(), probe, max(unit, 1e-6))


def corruption_kinds(archive: Archive) -> Array | None:
    """Index in `KINDS` of what was done to every image, int64 [N]; None where not all kinds are known and present."""
    if archive.corruption is None or archive.kind == "points":
        return None
    kinds = np.array([KINDS.index(kind) for kind in archive.corruption.kind], dtype=np.int64)
    return kinds if np.bincount(kinds, minlength=len(KINDS)).min() >= 2 else None


@torch.no_grad()
def _measuring(second: FrozenClassifier, measure: Measure, x: torch.Tensor, classes: torch.Tensor) -> FrozenClassifier:
    """The second classifier with the measure, its range (where it has one) from its own logits."""
    if measure.draws:
        return second.with_measure(Msp()).to(x.device)
    return second.with_measure(measure.fitted(second(x), classes)).to(x.device)


def _kept(
    archive: Archive, role: str, arch: str, args: Mapping[str, int], train: Callable[[], FrozenClassifier]
) -> FrozenClassifier:
    """The judge from .NAME.<data's hash>-<recipe's hash>.ROLE.safetensors beside the archive, or a new one."""
    key = hashlib.sha256(f"{role} {arch} {sorted(args.items())} {RECIPES[arch]} {_SEED}".encode()).hexdigest()
    place = archive.path.resolve()
    name = f".{place.name.removesuffix('.zip')}.{archive.content_sha256[:12]}-{key[:12]}.{role}.safetensors"
    path = place.with_name(name)
    if path.is_file():
        try:
            return FrozenClassifier.from_bytes(_read(path), str(path))
        except UserError as error:
            print(f"{path} is damaged and is made again ({error})", flush=True)
    print(f"training the {role} classifier on {archive.path}", flush=True)
    found = train()
    if os.access(path.parent, os.W_OK):
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(found.to_bytes())
        except UserError as error:  # a full disk, or another user's file in a folder that all may write to
            print(f"{error}; until then it is trained anew each time", flush=True)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
