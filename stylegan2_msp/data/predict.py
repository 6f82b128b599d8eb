"""What a frozen classifier says of every sample: class probabilities and its measure of uncertainty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from stylegan2_msp.classifiers.frozen import FrozenClassifier
from stylegan2_msp.classifiers.train import to_float
from stylegan2_msp.data.samples import Samples
from stylegan2_msp.errors import UserError
from stylegan2_msp.progress import track
from stylegan2_msp.uncertainty import MEASURES

BATCH = 512
_FIT = 20_000  # samples, at most, from which a measure learns its range


@torch.inference_mode()
def predict_all(classifier: FrozenClassifier, samples: Samples, batch: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of every sample, float32 [N, K], and its uncertainty within range, float32 [N] or [N, K]."""
    device, measure = classifier.scale.device, classifier.measure
    data, classes = samples.data, _classes(samples)
    parts, values = [], []
    starts = range(0, len(data), batch)
    for start in track(starts, "annotating", len(data), _unit(classifier), step=batch):
        x = to_float(torch.tensor(data[start : start + batch], device=device))  # a copy: data may be read-only
        logits = classifier(x)
        wanted = classifier.measured_logits(x) if measure.draws else logits
        parts.append(logits.softmax(dim=1).cpu())
        values.append(measure(wanted, classes[start : start + batch].to(device)).cpu())
    check_finite(torch.cat(parts), range(len(samples)))
    probs, u = torch.cat(parts).numpy(), torch.cat(values).float()
    return probs, u.clamp(measure.low(probs.shape[1]), measure.high(probs.shape[1])).numpy()


@torch.inference_mode()
def with_measure(classifier: FrozenClassifier, samples: Samples, name: str, batch: int) -> FrozenClassifier:
    """The classifier with a measure that has learned its range from (at most 20,000 of) these samples."""
    device = classifier.scale.device
    found = classifier.with_measure(MEASURES[name]()).to(device)
    rows = np.linspace(0, len(samples) - 1, min(len(samples), _FIT)).astype(int)
    data, classes = torch.from_numpy(samples.data[rows]), _classes(samples)[torch.from_numpy(rows)]
    shown = track(data.split(batch), f"finding the range of {found.measure.title}", len(data), _unit(found), step=batch)
    parts = [found.measured_logits(to_float(part.to(device))).cpu() for part in shown]
    logits = torch.cat(parts, dim=-2)
    check_finite(logits.sum(dim=0) if found.measure.draws else logits, rows.tolist())
    return found.with_measure(found.measure.fitted(logits, classes)).to(device)


def check_finite(answers: torch.Tensor, rows: Sequence[int]) -> None:
    """Looks for NaN and infinity in what a classifier gives [n, K] for the samples of these numbers.

    Raises:
        UserError: names the first such sample.
    """
    fine = answers.isfinite().all(dim=1)
    if not fine.all():
        bad = rows[int((~fine).int().argmax())]
        raise UserError(f"--classifier: gives NaN for sample {bad}; check its weights and --input-range")


def _unit(classifier: FrozenClassifier) -> str:
    return "images" if classifier.kind == "images" else "points"


def _classes(samples: Samples) -> torch.Tensor:
    assert samples.classes is not None  # no classifier is made for unlabelled samples
    return torch.from_numpy(samples.classes)
