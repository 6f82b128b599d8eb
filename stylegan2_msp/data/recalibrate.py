"""Recalibration of a classifier on held-out samples; its figures before and after, on others of them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylegan2_msp.classifiers.frozen import FrozenClassifier
from stylegan2_msp.classifiers.load import DataShape
from stylegan2_msp.classifiers.recalibration import FITS, Recalibration
from stylegan2_msp.classifiers.train import split_validation, to_float
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.predict import check_finite
from stylegan2_msp.data.samples import Samples
from stylegan2_msp.data.selection import generator, random_subset
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import replacing
from stylegan2_msp.metrics.calibration import calibration_figures

METHODS = ("none", *FITS)
_LEAST = 20  # held-out samples
_PROPER = (("NLL", "nll"), ("Brier score", "brier"))  # least where probabilities are right
_SHOWN = 12
_SHARE = 5  # without a held-out split, every so manieth sample


def recalibrate(
    classifier: FrozenClassifier,
    samples: Samples,
    method: str,
    *,
    trained: bool = False,
    holdout: str | Path | None = None,
    seed: int = 0,
    batch: int = 512,
) -> FrozenClassifier:
    """The classifier with ``method`` ('none' or one of `recalibration.FITS`) in place of what recalibration it had.

    The held-out samples are, in this order of preference: the archive ``holdout``; the part that was not trained on
    (``trained``); a random fifth of ``samples``. A random half of them fits, the other half measures. The figures are
    printed, and kept in ``spec.report['calibration']``.

    Args:
        classifier: to be recalibrated; its raw logits are used.
        samples: those to be annotated.
        trained: whether `train_classifier` made the classifier from these samples with this seed.
        seed: of the fifth and of the halves.
        batch: samples per forward.

    Raises:
        UserError: ``holdout`` is for another classifier, or there are too few samples.
    """
    report = {name: value for name, value in classifier.spec.report.items() if name != "calibration"}
    spec = replace(classifier.spec, recalibration=Recalibration().settings(), report=report)
    plain = FrozenClassifier(spec, classifier.net).to(classifier.scale.device)
    if method == "none":
        return plain
    held, where = _held_out(samples, plain, trained, holdout, seed)
    if len(held) < _LEAST:
        few = f"{len(held)} held-out samples ({where}) are fewer than {_LEAST}"
        raise UserError(f"--recalibrate {method}: {few}; bring more with --holdout, or leave it out")
    logits, classes = _raw_logits(plain, held, batch), torch.from_numpy(_classes(held))
    check_finite(logits, range(len(held)))
    order = torch.from_numpy(generator(seed, "calibration halves", None).permutation(len(held)))
    fit, rest = order[: len(held) // 2], order[len(held) // 2 :]
    found = FITS[method](logits[fit], classes[fit])
    stages = {"before": logits[rest], "after": found(logits[rest])}
    figures = {name: calibration_figures(v.softmax(dim=1), classes[rest]) for name, v in stages.items()}
    summary = {"method": method, "held_out": where, "fitted_on": len(fit), "measured_on": len(rest), **figures}
    if method == "temperature":
        summary["temperature"] = found.settings()["temperature"]
    print("\n".join(_table(summary)), flush=True)
    for line in _doubts(summary, int((logits[fit].argmax(dim=1) != classes[fit]).sum())):
        print(f"warning: --recalibrate {method}: {line}", file=sys.stderr, flush=True)
    spec = replace(spec, recalibration=found.settings(), report={**report, "calibration": summary})
    return FrozenClassifier(spec, plain.net).to(plain.scale.device)


def write_calibration(dest: str | Path, classifier: FrozenClassifier) -> list[Path]:
    """Writes NAME-calibration.json and NAME-reliability.png beside the archive ``dest``; nothing without a report.

    Raises:
        UserError: the place cannot be written.
    """
    summary = classifier.spec.report.get("calibration")
    if summary is None:
        return []
    from stylegan2_msp.report.reliability import reliability_diagram  # matplotlib takes long to import
    from stylegan2_msp.report.style import save_figure

    name = Path(dest).name.removesuffix(".zip")
    table, picture = (Path(dest).with_name(name + end) for end in ("-calibration.json", "-reliability.png"))
    panels = {stage: summary[stage] for stage in ("before", "after")}
    save_figure(reliability_diagram(panels, f"Recalibration: {summary['method']}"), picture)
    with replacing(table) as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return [table, picture]


def _held_out(
    samples: Samples, classifier: FrozenClassifier, trained: bool, holdout: str | Path | None, seed: int
) -> tuple[Samples, str]:
    """The held-out samples, and in words what they are."""
    if holdout is not None:
        held = open_archive(holdout).load()
        found = DataShape(held.kind, held.img_channels, held.img_resolution, held.num_classes)
        spec = classifier.spec
        if held.classes is None or found != DataShape(
            spec.data, spec.img_channels, spec.img_resolution, spec.num_classes
        ):
            raise UserError(f"--holdout: {holdout} is unlabelled or other data than the classifier's; choose another")
        if samples.class_names and held.class_names and samples.class_names != held.class_names:
            theirs, ours = (", ".join(names[:_SHOWN]) for names in (held.class_names, samples.class_names))
            raise UserError(
                f"--holdout: {holdout} has the classes {theirs}, the data {ours}; give them the same names in both"
            )
        return held, f"all of {Path(holdout).name}"
    if trained:
        classes = torch.from_numpy(_classes(samples))
        _, unseen = split_validation(classes, samples.num_classes, torch.Generator().manual_seed(seed))
        return samples.take(unseen.numpy()), "the part that was not trained on"
    rows = random_subset(np.arange(len(samples)), len(samples) // _SHARE, seed, "calibration")
    print(
        "--recalibrate: uses a random fifth of these samples; if the classifier was trained on them, it looks better "
        "than it is: bring unseen ones with --holdout",
        flush=True,
    )
    return samples.take(rows), f"a random fifth, seed {seed}"


def _classes(samples: Samples) -> np.ndarray:
    assert samples.classes is not None  # checked by whoever made the classifier
    return samples.classes


@torch.inference_mode()
def _raw_logits(classifier: FrozenClassifier, samples: Samples, batch: int) -> torch.Tensor:
    """Logits without recalibration on the CPU, [N, K]."""
    data, device = torch.from_numpy(samples.data), classifier.scale.device
    return torch.cat([classifier.raw_logits(to_float(part.to(device))).cpu() for part in data.split(batch)]).clone()


def _table(summary: dict[str, Any]) -> list[str]:
    method = summary["method"]
    if "temperature" in summary:
        method += f" {summary['temperature']:.3f}"
    used = f"fitted on {summary['fitted_on']}, measured on {summary['measured_on']} others of {summary['held_out']}"
    lines = [f"recalibration: {method}; {used}", "         accuracy      ECE      NLL    Brier"]
    for stage in ("before", "after"):
        row = summary[stage]
        figures = "".join(f"{abs(row[name]):9.4f}" for name in ("ece", "nll", "brier"))
        lines.append(f"{stage:8s}{100 * row['accuracy']:7.1f} %{figures}")
    return lines


def _doubts(summary: dict[str, Any], mistakes: int) -> list[str]:
    """What speaks against a recalibration, given how many of the samples that it was fitted on are named wrong."""
    lines = []
    if not mistakes:
        lines.append(
            f"the classifier names all {summary['fitted_on']} samples right that it was fitted on, so nothing says how "
            "unsure it should be, and it makes it as sure as it can; bring more unseen ones with --holdout"
        )
    before, after = summary["before"], summary["after"]
    if all(after[key] > before[key] for _, key in _PROPER):
        rose = " and ".join(f"{name} rises from {before[key]:.4f} to {after[key]:.4f}" for name, key in _PROPER)
        lines.append(
            f"{rose}: the probabilities are worse than without it on samples that it was not fitted on; bring more "
            "with --holdout, or leave it out"
        )
    return lines
