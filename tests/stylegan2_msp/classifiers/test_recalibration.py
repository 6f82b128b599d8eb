"""Recalibration against known truths, scipy's optimiser and scikit-learn, and its way through the classifier's file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from sklearn.isotonic import IsotonicRegression

from stylegan2_msp.classifiers import ClassifierSpec, FrozenClassifier
from stylegan2_msp.classifiers.builtin import SmallMLP
from stylegan2_msp.classifiers.recalibration import (
    FITS,
    fit_isotonic,
    fit_temperature,
    fit_vector,
    make_recalibration,
)
from stylegan2_msp.errors import UserError

K = 4


def drawn(count: int = 4000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """True logits, and classes drawn from their softmax: calibrated by construction."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, K, generator=rng) * 1.5
    return logits, torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]


def slow_nll(logits: np.ndarray, classes: np.ndarray) -> float:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return float(-np.log(p[np.arange(len(p)), classes]).mean())


def test_recalibrated_logits_by_their_formulas() -> None:
    """Temperature divides, vector scaling multiplies and adds (Guo et al. 2017, equations 9 and 8)."""
    logits = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    divided = make_recalibration({"name": "temperature", "temperature": 2.5}, 2)(logits)
    torch.testing.assert_close(divided, torch.tensor([[0.4, -0.8], [0.2, 1.2]]))
    scaled = make_recalibration({"name": "vector", "weight": [2.0, 0.5], "bias": [1.0, -1.0]}, 2)(logits)
    torch.testing.assert_close(scaled, torch.tensor([[3.0, -2.0], [2.0, 0.5]]))


def test_temperature_finds_the_truth_and_the_optimum() -> None:
    logits, classes = drawn()
    found = fit_temperature(logits * 2.5, classes)
    assert float(found.value) == pytest.approx(2.5, rel=0.05)
    best = minimize_scalar(
        lambda t: slow_nll(logits.double().numpy() * 2.5 / t, classes.numpy()), bounds=(0.1, 10), method="bounded"
    )
    assert float(found.value) == pytest.approx(best.x, rel=1e-4)
    assert torch.equal(found(logits).argmax(1), logits.argmax(1))


def test_vector_scaling_finds_the_truth_and_the_optimum() -> None:
    logits, classes = drawn()
    w, b = torch.tensor([0.5, 1.0, 2.0, 1.5]), torch.tensor([0.5, -0.5, 0.2, -0.2])
    seen = (logits - b) / w
    found = fit_vector(seen, classes)
    torch.testing.assert_close(found.weight, w, atol=0.15, rtol=0.1)
    torch.testing.assert_close(found.bias, b, atol=0.15, rtol=0.1)
    held = seen.double().numpy()
    best = minimize(lambda v: slow_nll(held * v[:K] + v[K:], classes.numpy()), np.r_[np.ones(K), np.zeros(K)])
    assert slow_nll(found(seen).double().numpy(), classes.numpy()) == pytest.approx(best.fun, abs=1e-6)
    np.testing.assert_allclose(found.weight, best.x[:K], atol=2e-3)


def test_a_held_out_part_without_errors_does_not_run_away() -> None:
    classes = torch.arange(40) % K
    logits = torch.eye(K)[classes] * 3
    assert 0.05 <= float(fit_temperature(logits, classes).value) < 0.5
    assert fit_vector(logits, classes)(logits).isfinite().all()


def test_isotonic_is_scikit_learns_per_class() -> None:
    logits, classes = drawn(600)
    fresh = drawn(300, seed=1)[0] * 3
    found = fit_isotonic(logits * 3, classes)
    p, new = (logits * 3).softmax(1).numpy(), fresh.softmax(1)
    wanted = np.stack(
        [
            IsotonicRegression(y_min=1 / 602, y_max=601 / 602, out_of_bounds="clip")
            .fit(p[:, k], classes == k)
            .predict(new[:, k])
            for k in range(K)
        ],
        axis=1,
    )
    np.testing.assert_allclose(found.bend(new).numpy(), wanted, atol=1e-5)
    normalised = wanted / wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found(fresh).exp().numpy(), normalised, atol=1e-4)
    assert found(fresh).isfinite().all()


def test_isotonic_keeps_the_corners_and_the_ends() -> None:
    bent = make_recalibration({"name": "isotonic", "x": [[0.2, 0.4, 0.8], [0.5]], "y": [[0.1, 0.5, 0.6], [0.3]]}, 2)
    p = torch.tensor([[0.0, 0.0], [0.2, 0.5], [0.3, 1.0], [0.4, 0.2], [0.6, 0.6], [0.8, 0.1], [1.0, 0.9]])
    torch.testing.assert_close(bent.bend(p)[:, 0], torch.tensor([0.1, 0.1, 0.3, 0.5, 0.55, 0.6, 0.6]))
    torch.testing.assert_close(bent.bend(p)[:, 1], torch.full((7,), 0.3))


@pytest.mark.parametrize("method", list(FITS))
def test_recalibration_is_differentiable_and_survives_json(method: str) -> None:
    logits, classes = drawn(400)
    found = FITS[method](logits * 2, classes)
    again = make_recalibration(json.loads(json.dumps(found.settings())), K)
    assert torch.equal(again(logits), found(logits))
    assert again.settings() == found.settings()
    x = (torch.randn(5, K, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 1.3).requires_grad_(True)
    assert torch.autograd.gradcheck(found.double(), (x,), eps=1e-7, atol=1e-4)


def test_recalibration_travels_with_the_classifier_and_changes_what_all_see() -> None:
    torch.manual_seed(0)
    args = {"hidden": 8, "num_hidden": 1}
    plain = FrozenClassifier(ClassifierSpec("mlp", "points", K, 0, 0, 2, 0, arch_args=args), SmallMLP(2, K, **args))
    x = torch.randn(50, 2)
    for method in FITS:
        found = plain.with_recalibration(FITS[method](plain(x) * 3, torch.arange(50) % K))
        again = FrozenClassifier.from_bytes(found.to_bytes())
        assert torch.equal(again(x), found(x))
        assert again.sha256 == found.sha256 != plain.sha256
        torch.testing.assert_close(again(x), again.recalibration(plain(x)))
        assert torch.equal(again.raw_logits(x), plain(x))
        torch.testing.assert_close(again.predict(x)[1], again(x).softmax(1).amax(1))
        torch.testing.assert_close(again.uncertainty(x), again(x).softmax(1).amax(1))
        assert not torch.allclose(again.probs(x), plain.probs(x))
        again.verify_frozen()
        next(again.recalibration.buffers()).mul_(1.5)
        with pytest.raises(RuntimeError, match="buffers have changed"):
            again.verify_frozen()


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"name": "platt"},
        {"name": "temperature"},
        {"name": "temperature", "temperature": 0.0},
        {"name": "temperature", "temperature": "hot"},
        {"name": "temperature", "temperature": float("inf")},
        {"name": "vector", "weight": [1.0], "bias": [0.0]},
        {"name": "vector", "weight": [1.0, float("nan")], "bias": [0.0, 0.0]},
        {"name": "isotonic", "x": [[0.0, 1.0]], "y": [[0.0, 1.0]]},
        {"name": "isotonic", "x": [[1.0, 0.0]] * 2, "y": [[0.0, 1.0]] * 2},
        {"name": "isotonic", "x": [[0.0, 1.0]] * 2, "y": [[0.1, 2.0]] * 2},
        {"name": "isotonic", "x": [[0.0, 1.0]] * 2, "y": [[0.0, 1.0]] * 2},
        {"name": "isotonic", "x": [[0.0, 1.0]] * 2, "y": [[0.0]] * 2},
        {"name": "isotonic", "x": [[]] * 2, "y": [[]] * 2},
        ["isotonic"],
    ],
)
def test_a_damaged_file_is_one_line(bad: object) -> None:
    spec = ClassifierSpec("mlp", "points", 2, 0, 0, 2, 0)
    data = FrozenClassifier(spec, SmallMLP(2, 2)).to_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["spec"] = replace(spec, recalibration=bad).to_json()  # type: ignore[arg-type]
    text = json.dumps(header).encode()
    with pytest.raises(UserError, match="classifier: its recalibration"):
        FrozenClassifier.from_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
