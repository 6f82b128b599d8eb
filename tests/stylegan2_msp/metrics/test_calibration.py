"""Calibration figures against torchmetrics, scikit-learn and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.classification import MulticlassCalibrationError

from stylegan2_msp.metrics.calibration import brier, calibration_figures, ece, nll, reliability


def answers(count: int, k: int, seed: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and classes drawn from them before they were sharpened."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, k)) * 2
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    classes = (p.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    sharp = p**sharpness
    return sharp / sharp.sum(axis=1, keepdims=True), classes


@pytest.mark.parametrize("bins", [5, 15])
@pytest.mark.parametrize("k", [2, 7])
def test_ece_is_torchmetrics(k: int, bins: int) -> None:
    p, y = answers(1000, k, seed=k, sharpness=2)
    other = MulticlassCalibrationError(num_classes=k, n_bins=bins, norm="l1")
    assert ece(p, y, bins) == pytest.approx(float(other(torch.from_numpy(p), torch.from_numpy(y))), abs=1e-6)


@pytest.mark.parametrize("k", [2, 7])
def test_nll_and_brier_are_scikit_learns(k: int) -> None:
    p, y = answers(500, k, seed=k)
    assert nll(p, y) == pytest.approx(log_loss(y, p, labels=range(k)))
    pytest.importorskip("sklearn", minversion="1.7")  # older ones score two classes only
    assert brier(p, y) == pytest.approx(brier_score_loss(y, p, labels=range(k), scale_by_half=False))


def test_calibrated_answers_have_almost_no_error_and_overconfident_ones_have() -> None:
    calibrated, overconfident = answers(40_000, 3, seed=0), answers(40_000, 3, seed=0, sharpness=4)
    assert ece(*calibrated) < 0.01
    assert ece(*overconfident) > 0.1
    assert nll(*overconfident) > nll(*calibrated)
    assert brier(*overconfident) > brier(*calibrated)


def test_known_cases() -> None:
    sure_and_right = np.eye(3), np.arange(3)
    assert (ece(*sure_and_right), nll(*sure_and_right), brier(*sure_and_right)) == (0, 0, 0)
    sure_and_wrong = np.eye(2), np.array([1, 0])
    assert (ece(*sure_and_wrong), brier(*sure_and_wrong)) == (1, 2)
    assert nll(*sure_and_wrong) == pytest.approx(-np.log(1e-12))
    half = np.full((4, 2), 0.5), np.array([0, 0, 0, 1])
    assert ece(*half) == pytest.approx(0.25)


def test_bins_hold_their_samples() -> None:
    p = np.array([[0.62, 0.38], [0.58, 0.42], [0.95, 0.05], [0.09, 0.91]])
    rows = reliability(p, np.array([0, 1, 0, 1]), bins=5)
    assert [(round(row.low, 2), round(row.high, 2), row.count) for row in rows] == [
        (0.4, 0.6, 1),
        (0.6, 0.8, 1),
        (0.8, 1.0, 2),
    ]
    assert [row.accuracy for row in rows] == [0, 1, 1]
    assert [row.confidence for row in rows] == pytest.approx([0.58, 0.62, 0.93])
    figures = calibration_figures(p, np.array([0, 1, 0, 1]))
    assert (figures["count"], figures["accuracy"]) == (4, 0.75)
    assert sum(row["count"] for row in figures["bins"]) == 4


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    """Bins are (low, high] (Guo et al. 2017, section 2)."""
    (row,) = reliability(np.full((3, 2), 0.5), np.array([0, 0, 1]), bins=10)
    assert (row.low, row.high) == pytest.approx((0.4, 0.5))


@pytest.mark.parametrize(("shape", "classes"), [((0, 3), 0), ((4, 3), 5), ((4,), 4)])
def test_shapes_are_checked(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(ValueError, match=r"must be \[N, K\]"):
        ece(np.zeros(shape), np.zeros(classes, int))


@pytest.mark.parametrize("figure", [ece, nll, brier, reliability, calibration_figures])
@pytest.mark.parametrize(
    ("probs", "classes", "message"),
    [
        (np.eye(3), np.array([0, 1, -1]), "whole numbers from 0 to 2, found -1 to 1"),
        (np.eye(3), np.array([1, 2, 3]), "whole numbers from 0 to 2"),
        (np.eye(3), np.array([0.0, 1.0, 2.0]), "found float64"),
        (np.eye(3), np.array(["0", "1", "2"]), "found <U1"),
        (np.log(np.full((3, 3), 1 / 3)), np.arange(3), "softmax of logits"),
        (np.full((3, 3), 0.5), np.arange(3), "sum to 1"),
    ],
)
def test_what_is_no_probability_or_no_class_gives_no_figure(figure, probs, classes, message) -> None:
    with pytest.raises(ValueError, match=message):
        figure(probs, classes)
