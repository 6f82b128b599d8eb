"""A trial forward of a classifier on some of the data, so that nothing unfit is ever written beside it."""

from __future__ import annotations

import torch

from stylegan2_msp.classifiers.frozen import FrozenClassifier
from stylegan2_msp.errors import UserError

_TOLERANCE = 1e-3


def check_classifier(classifier: FrozenClassifier, x: torch.Tensor, source: str) -> None:
    """Runs the classifier on a few samples and looks at what comes out.

    Args:
        classifier: to be tried.
        x: a few samples as `FrozenClassifier.forward` takes them, on the classifier's device.
        source: how messages name it.

    Raises:
        UserError: it fails on the data, gives another number of classes, NaN, probabilities or percentages in place of
            logits, something else the second time or in another batch, changes itself, or lets no gradient through.
    """
    out = _forward(classifier, x, source)
    k = classifier.num_classes
    if out.ndim < 2 or tuple(out.shape[1:]) == (1,):
        raise UserError(f"{source}: has one output, the data has {k} classes and wants [N, {k}]{_both(classifier)}")
    if out.ndim != 2 or len(out) != len(x):
        raise UserError(f"{source}: gives an output of shape {list(out.shape)} for {len(x)} samples, expected [N, {k}]")
    if out.shape[1] != k:
        raise UserError(f"{source}: has {out.shape[1]} classes, the data has {k}; bring a classifier for this data")
    if not bool(out.isfinite().all()):
        raise UserError(f"{source}: gives NaN or infinite values; check its weights, --input-range, -mean and -std")
    if not torch.allclose(out, _forward(classifier, x, source), atol=_TOLERANCE, rtol=_TOLERANCE):
        raise UserError(f"{source}: is not deterministic in eval (two runs differ); remove its randomness")
    with torch.no_grad():
        _check_output(classifier, classifier.raw_logits(x), source)
    alone = torch.cat([_forward(classifier, row[None], source) for row in x[:3]])
    if not torch.allclose(out[:3], alone, atol=10 * _TOLERANCE, rtol=10 * _TOLERANCE):
        raise UserError(f"{source}: its answer for a sample depends on the others in the batch; call eval() on it")
    try:
        classifier.verify_frozen()
    except RuntimeError as error:
        raise UserError(f"{source}: changes itself when run ({error}); call eval() on it before exporting") from None
    with torch.enable_grad():
        if not classifier(x[:1].clone().requires_grad_(True)).requires_grad:
            raise UserError(f"{source}: lets no gradient through to the image; export it without detach or argmax")


def _forward(classifier: FrozenClassifier, x: torch.Tensor, source: str) -> torch.Tensor:
    try:
        with torch.no_grad():
            return classifier(x)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        first = next(iter(str(error).splitlines()), "")[:200]
        size, channels = classifier.spec.input_size, classifier.spec.input_channels
        fed = f"{channels}x{size}x{size} images" if classifier.kind == "images" else "2-D points"
        raise UserError(f"{source}: fails on {fed} ({first}); check --input-size and --input-channels") from None


def _both(classifier: FrozenClassifier) -> str:
    """How the one output of a classifier of two classes becomes two."""
    if classifier.num_classes != 2:
        return "; bring a classifier for this data"
    if classifier.spec.output == "probs":
        return "; of a sigmoid's probability p [N, 1] return torch.cat([1 - p, p], dim=1)"
    return "; of a sigmoid's logit z [N, 1] return torch.cat([torch.zeros_like(z), z], dim=1)"


def _check_output(classifier: FrozenClassifier, out: torch.Tensor, source: str) -> None:
    if classifier.spec.output == "logits":
        looks_like_probs = bool((out >= 0).all()) and bool(((out.sum(1) - 1).abs() < _TOLERANCE).all())
        if looks_like_probs:
            raise UserError(
                f"{source}: gives probabilities (rows in [0, 1] that sum to 1), logits are expected; "
                "give --classifier-output probs, or leave its softmax out"
            )
        total = float(out.sum(1).mean())  # logits of a few images may be positive, but not share a sum as well
        if len(out) > 1 and bool((out >= 0).all()) and bool(((out.sum(1) / total - 1).abs() < _TOLERANCE).all()):
            raise UserError(
                f"{source}: gives shares (rows of at least 0 that all sum to {total:.4g}), logits are expected; "
                f"leave its softmax out, or divide by {total:.4g} and give --classifier-output probs"
            )
    elif bool(((out.exp().sum(1) - 1).abs() > _TOLERANCE).any()):
        raise UserError(
            f"{source}: --classifier-output probs, but its rows do not sum to 1; give --classifier-output logits"
        )
