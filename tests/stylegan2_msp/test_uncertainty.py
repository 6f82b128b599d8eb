"""Measures of uncertainty against their formulas written literally, their ranges, gradients and settings."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2_msp.errors import UserError
from stylegan2_msp.uncertainty import MEASURES, Energy, Measure, MutualInformation, Softmax, make_measure

K, N = 4, 6
PLAIN = ("msp", "entropy", "margin", "true_class", "energy", "softmax")


def logits(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def ready(name: str) -> Measure:
    """A measure whose range is not that of nothing."""
    kind = MEASURES[name]
    return kind(lowest=-7.0, highest=3.0) if name in ("energy", "mutual_information") else kind()


def slow(name: str, row: list[float], cls: int) -> float | list[float]:
    """The formula, one image at a time, with plain numbers."""
    total = sum(math.exp(v) for v in row)
    p = [math.exp(v) / total for v in row]
    if name == "msp":
        return max(p)
    if name == "entropy":
        return -sum(q * math.log(q) for q in p) / math.log(len(p))
    if name == "margin":
        return sorted(p)[-1] - sorted(p)[-2]
    if name == "true_class":
        return p[cls]
    if name == "energy":
        return (-math.log(total) + 7) / 10
    return p


@pytest.mark.parametrize("name", PLAIN)
def test_measures_are_their_formulas(name: str) -> None:
    x, classes = logits(N, K), torch.arange(N) % K
    found = ready(name)(x, classes)
    wanted = [slow(name, row, int(k)) for row, k in zip(x.tolist(), classes, strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    assert found.shape == ((N, K) if name == "softmax" else (N,))


def test_mutual_information_is_its_formula() -> None:
    x = logits(5, N, K)
    found = MutualInformation(lowest=0.0, highest=2.0)(x)
    for i in range(N):
        p = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in x[:, i].tolist()]
        mean = [sum(column) / 5 for column in zip(*p, strict=True)]
        h = [-sum(q * math.log(q) for q in row) for row in p]
        wanted = -sum(q * math.log(q) for q in mean) - sum(h) / 5
        assert float(found[i]) == pytest.approx(wanted / 2, abs=1e-12)


def test_mutual_information_is_zero_where_the_draws_agree_and_log_k_where_each_is_sure_of_another() -> None:
    alike = logits(1, N, K).expand(5, N, K)
    assert MutualInformation().quantity(alike).abs().max() < 1e-12
    apart = (torch.eye(K, dtype=torch.float64) * 1000)[:, None]
    torch.testing.assert_close(MutualInformation().quantity(apart), torch.tensor([math.log(K)], dtype=torch.float64))


@pytest.mark.parametrize("name", list(MEASURES))
def test_gradients(name: str) -> None:
    x = logits(*((3, N, K) if name == "mutual_information" else (N, K)), scale=1.0).requires_grad_(True)
    classes = torch.arange(N) % K
    assert torch.autograd.gradcheck(lambda v: ready(name)(v, classes), (x,))


@given(st.lists(st.floats(-200, 200), min_size=3, max_size=3), st.integers(0, 2))
@settings(max_examples=200, deadline=None)
def test_values_stay_in_the_range_also_where_softmax_underflows(row: list[float], cls: int) -> None:
    for name in ("msp", "entropy", "margin", "true_class", "softmax"):
        measure = MEASURES[name]()
        u = measure(torch.tensor([row]), torch.tensor([cls]))
        assert u.isfinite().all()
        assert (u >= measure.low(3)).all()
        assert (u <= measure.high(3)).all()


@pytest.mark.parametrize("name", list(MEASURES))
def test_direction_a_sure_answer_lies_at_the_certain_end(name: str) -> None:
    measure = MEASURES[name]()
    classes = torch.zeros(2, dtype=torch.int64)
    x = torch.tensor([[9.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    if measure.draws:  # the second row's draws disagree
        x = torch.stack([x, torch.tensor([[9.0, 0.0, 0.0], [0.0, 3.0, 0.0]])])
    u = measure.level(measure(x, classes), classes)
    assert bool(u[0] > u[1]) == (measure.certain == "high")
    ends = {measure.low(3), measure.high(3)}
    assert {measure.sure(3), measure.unsure(3)} == ends
    assert measure.sure(3) == (max(ends) if measure.certain == "high" else min(ends))


def test_an_even_guess_and_a_sure_answer_give_the_ends_of_the_range() -> None:
    even, sure, cls = torch.zeros(1, K), torch.tensor([[1000.0, 0, 0, 0]]), torch.tensor([0])
    for name, at_even, at_sure in (("msp", 0.25, 1), ("entropy", 1, 0), ("margin", 0, 1), ("true_class", 0.25, 1)):
        assert float(MEASURES[name]()(even, cls)) == pytest.approx(at_even, abs=1e-6)
        assert float(MEASURES[name]()(sure, cls)) == pytest.approx(at_sure, abs=1e-6)


def test_a_recorded_range_runs_from_quantile_to_quantile_without_the_outliers() -> None:
    x = torch.zeros(4000, 2)
    x[:, 0] = torch.linspace(3, 9, 4000)
    x[0], x[1] = 1000.0, -1000.0
    fitted = Energy().fitted(x, torch.zeros(4000, dtype=torch.int64))
    assert isinstance(fitted, Energy)
    energy = -x.double().logsumexp(dim=1).sort(descending=True).values
    assert (fitted.lowest, fitted.highest) == pytest.approx((float(energy[4]), float(energy[-5])), rel=1e-6)
    assert -20 < fitted.lowest < fitted.highest < 20


def test_energy_of_probabilities_says_nothing_and_is_refused() -> None:
    with pytest.raises(UserError, match=r"--uncertainty energy: is .* for all of the data; choose another"):
        Energy().fitted(logits(50, K).log_softmax(dim=1), torch.zeros(50, dtype=torch.int64))


def test_a_level_of_the_softmax_vector_fills_up_with_the_class_mean() -> None:
    p = torch.tensor([[0.8, 0.15, 0.05], [0.3, 0.45, 0.25], [0.1, 0.9, 0.0], [0.2, 0.2, 0.6]], dtype=torch.float64)
    classes = torch.tensor([0, 0, 1, 2])  # the second is taken for class 1
    fitted = Softmax().fitted(p.clamp_min(1e-30).log(), classes)
    rows = fitted.rows(torch.tensor([0, 0, 1, 2]), torch.tensor([0.7, 1.0, 0.5, 0.2]))
    wanted = torch.tensor([[0.7, 0.2, 0.1], [1, 0, 0], [0.5, 0.5, 0], [0.4, 0.4, 0.2]])
    torch.testing.assert_close(rows, wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        fitted.level(rows, torch.tensor([0, 0, 1, 2])), torch.tensor([0.7, 1.0, 0.5, 0.2]), atol=1e-6, rtol=1e-6
    )


def test_a_class_without_doubt_or_images_shares_evenly() -> None:
    sure = torch.tensor([[500.0, -500.0, -500.0]])
    fitted = Softmax().fitted(sure, torch.tensor([0]))
    torch.testing.assert_close(
        fitted.rows(torch.tensor([0, 1]), torch.tensor([0.5, 0.0])), torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.0, 0.5]])
    )


@pytest.mark.parametrize("name", list(MEASURES))
def test_settings_survive_json(name: str) -> None:
    measure = MEASURES[name]()
    x = logits(5, 40, K) if measure.draws else logits(40, K)
    fitted = measure.fitted(x, torch.arange(40) % K)
    again = make_measure(json.loads(json.dumps(fitted.settings())), K)
    assert again == fitted
    assert again.name == name


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "vibes"},
        {},
        {"name": "msp", "lowest": 1},
        {"name": "energy", "lowest": 1.0, "highest": 1.0},
        {"name": "energy", "lowest": "x", "highest": 2.0},
        {"name": "energy", "lowest": float("nan"), "highest": 2.0},
        {"name": "softmax", "shares": [[0, 1], [1, 0]]},
        {"name": "softmax", "shares": [[0, 1, 1], [1, 0, 0], [1, 0, 0]]},
        {"name": "softmax", "shares": [[0, 1], [1]]},
        {"name": "softmax", "shares": "abc"},
        {"name": "softmax", "shares": [[0, 2, -1], [1, 0, 0], [1, 0, 0]]},
        {"name": ["msp"]},
    ],
)
def test_bad_settings_are_one_line(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"classifier: .*annotate again"):
        make_measure(bad, 3)


@pytest.mark.parametrize("name", ["true_class", "softmax"])
def test_a_measure_of_a_class_wants_the_class(name: str) -> None:
    measure = MEASURES[name]()
    assert measure.of_class
    if name == "true_class":
        with pytest.raises(ValueError, match="give classes"):
            measure(logits(N, K))
