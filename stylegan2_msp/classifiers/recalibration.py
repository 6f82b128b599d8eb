"""Recalibration: what is done to a classifier's logits so that its probabilities say how often it is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from stylegan2_msp.errors import UserError

_MOST = 20.0  # bound of a temperature, of its inverse and of a bias: a held-out part without errors has no optimum


class Recalibration(nn.Module):
    """Leaves logits [N, K] as they are; its members change them. Fixed once made, differentiable in the logits."""

    name = "none"

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [N, K] -> logits [N, K]."""
        return logits

    def settings(self) -> dict[str, Any]:
        """Plain JSON data from which `make_recalibration` makes it again."""
        return {"name": self.name}


class Temperature(Recalibration):
    """logits / T (Guo et al. 2017, equation 9): the predicted class stays."""

    name = "temperature"
    value: torch.Tensor

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(float(temperature)), persistent=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """[N, K] -> [N, K]."""
        return logits / self.value

    def settings(self) -> dict[str, Any]:
        """Its name and T."""
        return {"name": self.name, "temperature": float(self.value)}


class Vector(Recalibration):
    """w * logits + b with one weight and one bias per class (Guo et al. 2017, equation 8, diagonal W)."""

    name = "vector"
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.float(), persistent=False)
        self.register_buffer("bias", bias.float(), persistent=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """[N, K] -> [N, K]."""
        return logits * self.weight + self.bias

    def settings(self) -> dict[str, Any]:
        """Its name, weights and biases."""
        return {"name": self.name, "weight": self.weight.tolist(), "bias": self.bias.tolist()}


class Isotonic(Recalibration):
    """Every class's probability through a rising piecewise linear function, then normalised (Zadrozny, Elkan 2002).

    Args:
        x, y: K functions, each its corners: x rising within [0, 1], y above 0 and not falling.
    """

    name = "isotonic"
    x: torch.Tensor
    y: torch.Tensor

    def __init__(self, x: list[list[float]], y: list[list[float]]) -> None:
        super().__init__()
        most = max(map(len, x)) + 1  # the last corner is repeated up to one length
        for name, rows in (("x", x), ("y", y)):
            padded = torch.tensor([[*row, *[row[-1]] * (most - len(row))] for row in rows])
            self.register_buffer(name, padded, persistent=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """[N, K] -> log probabilities [N, K]."""
        probs = self.bend(logits.softmax(dim=1))
        return (probs / probs.sum(dim=1, keepdim=True)).log()

    def bend(self, probs: torch.Tensor) -> torch.Tensor:
        """Each class's own function of its probability, not normalised, [N, K]."""
        x, y = self.x.to(probs.dtype), self.y.to(probs.dtype)
        p = probs.T.contiguous().clamp(x[:, :1], x[:, -1:])
        right = torch.searchsorted(x, p.detach(), right=True).clamp(1, x.shape[1] - 1)
        x0, x1, y0, y1 = x.gather(1, right - 1), x.gather(1, right), y.gather(1, right - 1), y.gather(1, right)
        share = (p - x0) / (x1 - x0).clamp_min(torch.finfo(x.dtype).tiny)
        return (y0 + share * (y1 - y0)).T

    def settings(self) -> dict[str, Any]:
        """Its name and the corners of every function."""
        return {"name": self.name, "x": _unpadded(self.x, self.x), "y": _unpadded(self.y, self.x)}


def fit_temperature(logits: torch.Tensor, classes: torch.Tensor) -> Temperature:
    """The T > 0 with the least negative log likelihood of held-out logits [N, K] and classes [N]."""
    held = logits.double()
    (log_t,) = _minimise([torch.zeros((), dtype=torch.float64)], lambda t: _nll(held / t.exp(), classes))
    return Temperature(float(log_t.clamp(-math.log(_MOST), math.log(_MOST)).exp()))


def fit_vector(logits: torch.Tensor, classes: torch.Tensor) -> Vector:
    """The w and b with the least negative log likelihood; b has mean 0, because a shift of all changes nothing."""
    held = logits.double()
    start = [torch.ones(logits.shape[1], dtype=torch.float64), torch.zeros(logits.shape[1], dtype=torch.float64)]
    w, b = _minimise(start, lambda w, b: _nll(held * w + b, classes))
    return Vector(w.clamp(1 / _MOST, _MOST), (b - b.mean()).clamp(-_MOST, _MOST))


def fit_isotonic(logits: torch.Tensor, classes: torch.Tensor) -> Isotonic:
    """For each class the best rising function from its probability to how often it is the class (one against rest).

    Its values stay within [1 / (N + 2), 1 - 1 / (N + 2)] (Laplace's rule of succession): N samples cannot show that
    something never happens, and no probability may be 0.
    """
    from sklearn.isotonic import IsotonicRegression  # takes long to import

    probs, right = logits.softmax(dim=1).cpu().numpy(), classes.cpu().numpy()
    least = 1 / (len(right) + 2)
    x, y = [], []
    for k in range(probs.shape[1]):
        fit = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(probs[:, k], right == k)
        x.append([float(v) for v in fit.X_thresholds_])
        y.append([float(v) for v in fit.y_thresholds_])
    return Isotonic(x, y)


FITS: dict[str, Callable[[torch.Tensor, torch.Tensor], Recalibration]] = {
    "temperature": fit_temperature,
    "vector": fit_vector,
    "isotonic": fit_isotonic,
}


def make_recalibration(settings: Mapping[str, Any], num_classes: int) -> Recalibration:
    """The recalibration that `Recalibration.settings` describes.

    Raises:
        UserError: unknown, or its settings are not such.
    """
    try:
        made = _make(settings, num_classes)
        if all(bool(buffer.isfinite().all()) for buffer in made.buffers()):
            return made
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, OverflowError):
        pass
    raise UserError(f"classifier: its recalibration {str(settings)[:80]} is not known or damaged; annotate again")


def _make(settings: Mapping[str, Any], num_classes: int) -> Recalibration:
    name = settings["name"]
    if name == "none":
        return Recalibration()
    if name == "temperature":
        scaled = Temperature(settings["temperature"])
        if scaled.value > 0:
            return scaled
    if name == "vector":
        vector = Vector(torch.tensor(settings["weight"]), torch.tensor(settings["bias"]))
        if vector.weight.shape == vector.bias.shape == (num_classes,):
            return vector
    if name == "isotonic":
        x, y = settings["x"], settings["y"]
        bent = Isotonic(x, y)
        same = len(x) == num_classes and [len(row) for row in x] == [len(row) for row in y]
        if same and bool((bent.x.diff(dim=1) >= 0).all() and (bent.y > 0).all() and (bent.y <= 1).all()):
            return bent
    raise ValueError


def _minimise(start: list[torch.Tensor], loss: Callable[..., torch.Tensor], rounds: int = 100) -> list[torch.Tensor]:
    """LBFGS with line search from ``start``, in float64."""
    found = [value.clone().requires_grad_(True) for value in start]
    optimizer = torch.optim.LBFGS(
        found, max_iter=rounds, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(*found)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return [value.detach() for value in found]


def _nll(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, classes)


def _unpadded(rows: torch.Tensor, x: torch.Tensor) -> list[list[float]]:
    """Rows without the repeated last corners."""
    counts = (x < x[:, -1:]).sum(dim=1) + 1
    return [row[:count].tolist() for row, count in zip(rows, counts.tolist(), strict=True)]
