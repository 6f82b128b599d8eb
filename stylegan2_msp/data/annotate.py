"""Annotation: what a frozen classifier says of every sample, written into the archive together with the classifier."""

from __future__ import annotations

import hashlib
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylegan2_msp.classifiers.frozen import FrozenClassifier
from stylegan2_msp.classifiers.load import (
    DataShape,
    Declared,
    fit_to,
    is_factory,
    load_classifier,
    refuse_declared,
    refuse_weights,
)
from stylegan2_msp.classifiers.train import RECIPES, to_float, train_classifier
from stylegan2_msp.classifiers.trial import check_classifier
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.archive_writer import check_destination, write_archive
from stylegan2_msp.data.misfit import misfit
from stylegan2_msp.data.predict import BATCH, predict_all, with_measure
from stylegan2_msp.data.recalibrate import METHODS, recalibrate, write_calibration
from stylegan2_msp.data.samples import Annotation, Samples
from stylegan2_msp.device import pick_device
from stylegan2_msp.errors import UserError
from stylegan2_msp.uncertainty import MEASURES, Ranged

DROPOUT = 25  # per cent, of a built-in classifier that is trained for a measure with dropout
_TRIAL = 8
_ALIKE = 0.01  # where the middle 98 % of the levels lie so near to each other, there is little to learn of them
_LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5)
# Accuracy (train, validation) of the classifiers in Le Coz 2023, section 3.
_PAPER = {False: (0.988, 0.985), True: (0.940, 0.932)}


@torch.inference_mode(False)  # whatever mode the caller is in: training and the trial want gradients
def annotate_samples(
    samples: Samples,
    classifier: str | Path,
    *,
    seed: int = 0,
    device: str = "auto",
    weights: str | Path | None = None,
    declared: Declared | None = None,
    batch: int = BATCH,
    mirror: bool = False,
    uncertainty: str | None = None,
    recalibration: str | None = None,
    holdout: str | Path | None = None,
    beside: str | Path | None = None,
) -> Samples:
    """The samples with the uncertainty and all class probabilities that a classifier gives them, and the classifier.

    Args:
        samples: with class labels.
        classifier: 'train' (the built-in network, on these samples), a .pt2 or .safetensors file, an annotated archive
            whose classifier is used again, or 'package.module:factory'.
        seed: of the training.
        device: 'auto', 'cpu' or 'cuda[:i]'.
        weights, declared: of a classifier that the user brings, see `load_classifier`.
        batch: samples per forward.
        mirror: add every image's mirror image, with a value of its own (a built-in classifier is trained without them).
        uncertainty: measure, one of `uncertainty.MEASURES`; None: the one that the classifier comes with, else MSP.
        recalibration: 'none', 'temperature', 'vector' or 'isotonic'; None: what the classifier comes with, else none.
        holdout: archive that a recalibration is fitted on, see `recalibrate`.
        beside: where the archive will be; the figures of a new recalibration are written beside it.

    Raises:
        UserError: the classifier cannot be had or does not fit; nothing has been written.
    """
    _check_names(uncertainty, recalibration, holdout)
    classifier = _name_of(classifier)
    if mirror and samples.kind == "points":
        raise UserError("--mirror: 2-D points have no mirror image; leave it out")
    where = pick_device(device)
    dropout = DROPOUT if uncertainty is not None and MEASURES[uncertainty].draws else 0
    found = make_classifier(samples, classifier, seed, where, weights, declared, dropout)
    if recalibration is not None:
        trained = classifier == "train"
        found = recalibrate(found, samples, recalibration, trained=trained, holdout=holdout, seed=seed, batch=batch)
    if mirror:
        samples = samples.with_flips()
    if (uncertainty or found.measure.name) != found.measure.name or recalibration is not None:
        found = with_measure(found, samples, uncertainty or found.measure.name, batch)
    probs, u = predict_all(found, samples, batch)
    note = Annotation(u, probs, found.to_bytes(), found.measure.name)
    if weights is None and is_factory(classifier):
        print(f"classifier: {classifier} without --classifier-weights, so with the weights that it makes", flush=True)
    print("\n".join(_report(found, samples, probs, u)), flush=True)
    _warn(found, samples, probs, u, trained=classifier == "train")
    if beside is not None and recalibration is not None:
        for path in write_calibration(beside, found):
            print(f"{path}: written", flush=True)
    return replace(samples, annotation=note)


def annotate_archive(data: str | Path, dest: str | Path | None, classifier: str | Path, **options: Any) -> Path:
    """Annotates an archive (again, if it was annotated before) and writes it whole or not at all.

    Args:
        data: the archive.
        dest: where to write; None replaces ``data`` itself, which must then be a zip.
        classifier: with ``options`` as in `annotate_samples`.

    Raises:
        UserError: as `annotate_samples`, or the place cannot be written; what was there stays as it was.
    """
    path = Path(data)
    if dest is None and path.is_dir():
        raise UserError(f"{path}: is a folder, which cannot be replaced in one step; give --dest")
    target = check_destination(path if dest is None else dest)
    samples = open_archive(path).load()
    return write_archive(target, annotate_samples(samples, classifier, beside=target, **options))


def annotate_cached(
    data: str | Path,
    classifier: str | Path,
    *,
    seed: int = 0,
    device: str = "auto",
    weights: str | Path | None = None,
    declared: Declared | None = None,
) -> Path:
    """Path of an annotated copy of an archive, kept beside it and made only when data or classifier are new.

    The copy is named .NAME.<hash of the data>-<hash of the classifier>.msp.zip.

    Raises:
        UserError: as `annotate_archive`.
    """
    archive, classifier = open_archive(data), _name_of(classifier)
    shape = DataShape(archive.kind, archive.img_channels, archive.img_resolution, archive.num_classes)
    name = archive.path.resolve().name.removesuffix(".zip")
    found = None if classifier == "train" else _brought(classifier, shape, weights, declared)
    key = _training_key(seed) if found is None else found.sha256
    path = archive.path.resolve().with_name(f".{name}.{archive.content_sha256[:12]}-{key[:12]}.msp.zip")
    if path.exists():
        try:
            if open_archive(path).annotated:
                print(f"MSP of {data}: taken from {path}", flush=True)
                return path
        except UserError as error:
            print(f"{path} is damaged and is made again ({error})", flush=True)
    if not os.access(path.parent, os.W_OK):
        raise UserError(
            f"--classifier: an annotated copy is kept beside the data, but {path.parent} is not writable; make one "
            f"with `dataset annotate --data {data} --classifier {classifier} --dest ELSEWHERE.zip` and train on that"
        )
    return annotate_archive(data, path, classifier, seed=seed, device=device, weights=weights, declared=declared)


def make_classifier(
    samples: Samples,
    classifier: str,
    seed: int,
    device: torch.device,
    weights: str | Path | None = None,
    declared: Declared | None = None,
    dropout: int = 0,
) -> FrozenClassifier:
    """The classifier that ``classifier`` names, on ``device`` and tried on these samples.

    ``dropout`` is the percentage of a built-in one that is trained here.

    Raises:
        UserError: as `annotate_samples`.
    """
    if samples.classes is None:
        raise UserError("annotate: the data has no class labels, which every label vector begins with; add them first")
    if samples.num_classes < 2:
        raise UserError(f"annotate: the data has {samples.num_classes} class(es), 2 or more are needed")
    shape = DataShape(samples.kind, samples.img_channels, samples.img_resolution, samples.num_classes)
    if classifier == "train":
        if weights is not None or declared is not None:
            raise UserError("--classifier train: makes its own weights and input; leave the other options out")
        classes = torch.from_numpy(samples.classes)
        found = train_classifier(torch.from_numpy(samples.data), classes, samples.num_classes, seed, device, dropout)
    else:
        found = _brought(classifier, shape, weights, declared).to(device)
    rows = np.linspace(0, len(samples) - 1, min(_TRIAL, len(samples))).astype(int)
    check_classifier(found, to_float(torch.from_numpy(samples.data[rows]).to(device)), f"--classifier {classifier}")
    return found


def _name_of(classifier: str | Path) -> str:
    if isinstance(classifier, (str, Path)):
        return str(classifier)
    raise UserError(
        f"--classifier: is a {type(classifier).__name__}, expected a name; give that of a function that returns it, "
        "package.module:factory (of a notebook's own __main__:factory)"
    )


def _check_names(uncertainty: str | None, recalibration: str | None, holdout: str | Path | None) -> None:
    if uncertainty is not None and uncertainty not in MEASURES:
        raise UserError(f"--uncertainty {uncertainty}: is not one of {', '.join(MEASURES)}; choose one")
    if recalibration is not None and recalibration not in METHODS:
        raise UserError(f"--recalibrate {recalibration}: is not one of {', '.join(METHODS)}; choose one")
    if holdout is not None and recalibration in (None, "none"):
        raise UserError("--holdout: is what --recalibrate is fitted on; add --recalibrate temperature, or leave it out")


def _brought(
    classifier: str, shape: DataShape, weights: str | Path | None, declared: Declared | None
) -> FrozenClassifier:
    path = Path(classifier)
    refuse_weights(weights, classifier)
    if path.suffix == ".zip" or path.is_dir():
        data = open_archive(path).classifier_bytes
        if data is None:
            raise UserError(f"--classifier: {path} holds no classifier; annotate it first, or name another")
        refuse_declared(declared, classifier)
        return fit_to(FrozenClassifier.from_bytes(data, classifier), shape, classifier)
    return load_classifier(classifier, shape, declared, weights)


def _training_key(seed: int) -> str:
    return hashlib.sha256(f"built-in {RECIPES} seed {seed}".encode()).hexdigest()


def _report(classifier: FrozenClassifier, samples: Samples, probs: np.ndarray, u: np.ndarray) -> list[str]:
    """What a person wants to know of the classifier and of the uncertainty that it gave."""
    lines = []
    report = classifier.spec.report
    if "val_accuracy" in report:
        train, val = (f"{100 * report[name]:.1f} %" for name in ("train_accuracy", "val_accuracy"))
        if _like_mnist(samples):
            paper = _PAPER[samples.corruption is not None]
            train, val = (
                f"{ours} (paper: {100 * theirs:.1f} %)" for ours, theirs in zip((train, val), paper, strict=True)
            )
        lines.append(
            f"classifier: accuracy {train} on {report['train_size']} training samples, "
            f"{val} on {report['val_size']} held out; {report['epochs']} epochs, seed {report['seed']}"
        )
    measure, level = classifier.measure, _levels(classifier, samples, u)
    shares = [share if measure.certain == "high" else 1 - share for share in _LEVELS]
    quantiles = zip(shares, np.quantile(level, shares), strict=True)
    shown = ", ".join(f"{100 * share:g} % {value:.2f}" for share, value in quantiles)
    lines.append(f"these {len(samples)} {samples.kind}: {_accuracy(samples, probs)}; {measure.title} quantiles {shown}")
    if isinstance(measure, Ranged):
        lines.append(
            f"{measure.title} of {measure.lowest:.4g} or less counts as 0, of {measure.highest:.4g} or more as 1"
        )
    return lines


def _accuracy(samples: Samples, probs: np.ndarray) -> str:
    """In words, and that of the class with the least, which the whole hides where the class is rare."""
    assert samples.classes is not None
    right = probs.argmax(axis=1) == samples.classes
    present = np.unique(samples.classes)
    shares = [float(right[samples.classes == k].mean()) for k in present]
    least = int(np.argmin(shares))
    name = samples.class_names[present[least]] if samples.class_names else str(present[least])
    of_class = f" (of {name} {100 * shares[least]:.1f} %)" if len(present) > 1 else ""
    return f"accuracy {100 * right.mean():.1f} %{of_class}"


def _levels(classifier: FrozenClassifier, samples: Samples, u: np.ndarray) -> np.ndarray:
    """One number of uncertainty for each sample, [N]."""
    return classifier.measure.level(torch.from_numpy(u), torch.from_numpy(samples.classes)).numpy()


def _warn(classifier: FrozenClassifier, samples: Samples, probs: np.ndarray, u: np.ndarray, trained: bool) -> None:
    """Lines on standard error where the classifier plainly does not fit the labels, or is as sure of all samples."""
    assert samples.classes is not None
    names = samples.class_names or [str(index) for index in range(probs.shape[1])]
    line = misfit(probs.argmax(axis=1), samples.classes, names, trained)
    if line is not None:
        print(f"warning: {line}", file=sys.stderr, flush=True)
    elif classifier.recalibration.name == "none" and (probs.max(axis=1) < math.e * probs.min(axis=1)).all():
        print(
            "warning: the classifier's outputs differ by less than 1 for every one of these, as those of sigmoids do, "
            f"so that MSP is at most {probs.max():.2f}; let it return logits, without a sigmoid at its end",
            file=sys.stderr,
            flush=True,
        )
    low, high = np.quantile(_levels(classifier, samples, u), [0.01, 0.99])
    if high - low < _ALIKE:
        print(
            f"warning: {classifier.measure.title} is {low:.4f} to {high:.4f} for 98 % of these {samples.kind}, so "
            "there is little to learn of other levels; bring some that the classifier finds harder (--corrupt gaussian "
            "makes such), or choose another --uncertainty",
            file=sys.stderr,
            flush=True,
        )


def _like_mnist(samples: Samples) -> bool:
    """MNIST as this project pads it: the only data that the paper's figures can be set beside."""
    digits = samples.class_names == [str(index) for index in range(10)]
    return digits and (samples.img_channels, samples.img_resolution) == (1, 32) and len(samples) >= 10_000
