"""What the evaluator compares with what, in a world where an item says all of itself: the class it is named, and u."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.metrics.asking import bins_of
from stylegan2_msp.metrics.evaluate import Evaluator, RealData
from stylegan2_msp.search import Search
from stylegan2_msp.uncertainty import Msp, MutualInformation

K, N = 2, 400


class Reader(torch.nn.Module):
    """A classifier that reads what an item says, wherever an item came from; levels with an offset."""

    num_classes, measure = K, Msp()

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(1))
        self.offset, self.net = offset, None

    def answer(self, x: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, 0].long(), x[:, 1] + self.offset


class Follower(torch.nn.Module):
    """A generator: an item is named as asked for and has the level asked for, moved by a number of its latent."""

    z_dim, c_dim = 4, K + 1

    def __init__(self, spread: float = 0.0, c_dim: int = K + 1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.c_dim, self.spread, self.psi = c_dim, spread, set[float]()

    def mapping(self, z: torch.Tensor, c: torch.Tensor, truncation_psi: float = 1, **_: Any) -> torch.Tensor:
        self.psi.add(truncation_psi)
        return torch.cat([c, z], dim=1)

    def synthesis(self, ws: torch.Tensor, **_: Any) -> torch.Tensor:
        named = ws[:, :K].argmax(dim=1).float()
        asked = ws[:, K] if self.c_dim > K else torch.full_like(named, 0.75)
        return torch.stack([named, asked + self.spread * ws[:, -1]], dim=1)


@pytest.fixture(autouse=True)
def _without_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which take nearly all of the time and have tests of their own."""
    for module in ("evaluate", "matching", "realism"):
        monkeypatch.setattr(f"stylegan2_msp.metrics.{module}.bootstrap", lambda *_, **__: {})


def generator(G: Follower, measure: Any = None) -> Any:
    reader = Reader()
    return SimpleNamespace(G=G, classifier=reader, measure=measure or Msp(), num_classes=K, kind="points")


def real_data(probs: bool = True) -> RealData:
    """Every item has a level of its own; a fourth is named as the other class; three quarters are sure."""
    rng = np.random.default_rng(0)
    u = np.where(np.arange(N) % 4 > 0, rng.uniform(0.95, 1.0, N), rng.uniform(0.5, 1.0, N)).astype(np.float32)
    classes = (np.arange(N) // 7) % K
    named = np.where(rng.random(N) < 0.25, 1 - classes, classes)
    archive = SimpleNamespace(
        kind="points",
        classes=classes,
        probs=np.stack([1 - named, named], axis=1).astype(np.float32) if probs else None,
        corruption=None,
        levels=lambda: u,
        labels=lambda: make_labels(torch.from_numpy(classes), torch.from_numpy(u), K).numpy(),
        load_points=lambda: np.stack([named.astype(np.float32), u], axis=1),
    )
    return RealData(archive)  # type: ignore[arg-type]


HELD_OUT = np.arange(3, N, 9)
JUDGES: Any = SimpleNamespace(second=Reader(0.125), probe=None, unit=3.0, held_out=HELD_OUT)


def evaluator(G: Follower | None = None, **changes: Any) -> Evaluator:
    settings = {"n": 160, "real": real_data(), "judges": JUDGES, "quality": False, **changes}
    measure = settings.pop("measure", None)
    return Evaluator(generator(G or Follower(), measure), **settings)


def test_parts_of_the_reals_are_disjoint_random_and_of_their_level() -> None:
    one = evaluator()
    real, levels = one.real, one.scale.levels
    assert real is not None
    found = one._reference(real, one._all_reals(real))
    assert found.seen is not None
    assert found.seen.features is not None
    u = real.archive.levels()
    np.testing.assert_allclose(found.seen.asked, found.seen.features[:, 1])  # each item with its own level
    np.testing.assert_array_equal(found.seen.predicted, found.seen.features[:, 0])
    for level, (first, other) in found.parts.items():
        assert len(first) == len(other) == len(np.unique(first)) == len(np.unique(other))
        assert not set(first) & set(other)
        if level is None:
            assert len(first) == 160
            assert np.abs(np.corrcoef(np.arange(160), first)[0, 1]) < 0.3  # in random order
        else:
            near = bins_of(found.seen.asked, levels) == levels.index(level)
            assert near[first].all()
            assert near[other].all()
            assert len(first) == min(20, (bins_of(u, levels) == levels.index(level)).sum() // 2)
    np.testing.assert_allclose(found.seen.asked[found.held_out], u[HELD_OUT])


def test_few_reals_are_halved() -> None:
    one = evaluator(n=10_000)
    assert one.real is not None
    first, other = one._reference(one.real, one._all_reals(one.real)).parts[None]
    assert len(first) == len(other) == N // 2


def test_figures_of_matched_labels_are_of_matched_items() -> None:
    """The offset of the second classifier, and one of the fakes that only their own level has."""
    done = evaluator(Follower(0.01)).run()
    levels = done.scale.levels
    items = done.items["matched"]
    for b, level in enumerate(levels):
        own = items.answered[bins_of(items.asked, levels) == b]
        row = done.results.find("mean", "matched", level=level)
        assert (row is None) == (not len(own))
        if row is not None:
            assert row.value == pytest.approx(own.mean())
    assert done.results.value("second_mae", "natural", of="reals") == pytest.approx(0.125, abs=1e-6)
    assert done.results.find("second_mae", "natural", of="reals").count == len(HELD_OUT)  # type: ignore[union-attr]
    assert done.reals is not None
    assert len(done.reals) <= N


def test_energy_is_of_natural_labels() -> None:
    """A generator that does as it is asked makes natural items; those of the grid would lie elsewhere."""
    assert evaluator(n=N).run().results.value("energy_ratio", "natural") < 3


def test_each_real_is_named_as_the_archive_says_or_else_as_the_classifier_does() -> None:
    shares = [
        evaluator(real=real_data(probs)).run().results.value("class_agreement", "natural", of="reals")
        for probs in (True, False)
    ]
    data = real_data()
    assert shares == [pytest.approx((data.data[:, 0] == data.archive.classes).mean())] * 2


def test_what_the_second_classifier_cannot_measure_is_not_compared() -> None:
    assert evaluator().run().results.find("second_mae", "uniform") is not None
    assert evaluator(measure=MutualInformation()).run().results.find("second_mae", "uniform") is None
    assert evaluator().observers.unit == JUDGES.unit


def test_latents_are_shared_unless_each_is_drawn() -> None:
    for search, shared in ((None, True), (Search(0.1), True), (Search(0.1, draws=2), False)):
        asked = evaluator()._asked(160, search)["uniform"]
        assert (len(asked.z.unique(dim=0)) == len(asked) // 8) == shared


def test_truncation_is_of_the_fakes_and_not_of_the_baseline() -> None:
    G, other = Follower(), Follower(c_dim=K)
    evaluator(G, truncation_psi=0.5, baseline=generator(other)).run()
    assert (G.psi, other.psi) == ({0.5}, {1})


def test_costs_are_given_by_level() -> None:
    """Of a generator that is only ever near the level asked for by luck."""
    done = evaluator(Follower(0.2), n=800, search=Search(0.05, draws=4)).run()
    items = done.items["uniform"]
    assert items.made is not None
    assert items.accepted is not None
    for level in (None, *done.scale.levels):
        own = np.ones(len(items), bool) if level is None else np.isclose(items.asked, level)
        assert done.results.value("accepted", "uniform", level=level) == pytest.approx(items.accepted[own].mean())
        expected = items.made[own].sum() / items.accepted[own].sum()
        assert done.results.value("cost", "uniform", level=level) == pytest.approx(expected)
        assert done.results.find("cost", "uniform", level=level).count == own.sum()  # type: ignore[union-attr]


def test_baselines_are_of_the_requests_they_are_compared_on() -> None:
    """A class-only generator whose items all lie at .75 meets the requests within half a step of that, at one draw."""
    done = evaluator(baseline=generator(Follower(c_dim=K))).run()
    results = done.results
    for on in ("natural", "uniform"):
        asked = done.items[on].asked
        eps = done.scale.eps
        assert results.value("mae", on, of="rejection") == pytest.approx(np.abs(asked - 0.75).mean())
        assert results.value("accepted", on, of="rejection") == pytest.approx((np.abs(asked - 0.75) <= eps).mean())
        assert results.value("mae", on, of="shuffled") > 0.02
        assert results.value("mae", on) == pytest.approx(0, abs=1e-6)
        assert results.value("mae", on, of="nearest real") < 0.05


def test_nearest_reals_have_no_interval_where_a_few_of_them_answer_every_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stylegan2_msp.metrics.evaluate.bootstrap", lambda *_, **__: {"mae": (0.0, 1.0)})
    results = evaluator().run().results
    for of, on, undefined in (
        ("nearest real", "natural", False),
        ("nearest real", "uniform", True),
        ("shuffled", "uniform", False),
    ):
        row = results.find("mae", on, of=of)
        assert row is not None
        assert np.isnan([row.low, row.high]).tolist() == [undefined] * 2


def test_rejection_has_items_of_every_class_however_few_are_asked_for() -> None:
    pool = evaluator(n=1, baseline=generator(Follower(c_dim=K)))._pool()
    assert set(pool.classes) == set(range(K))


@pytest.mark.parametrize("wrong", [{"n": 0}, {"batch": 0}, {"seed": -1}, {"truncation_psi": math.nan}])
def test_numbers_out_of_range_are_refused_before_anything_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="n and batch must be at least 1, seed at least 0, truncation_psi finite"):
        evaluator(**wrong)


def test_other_ways_to_the_level_stand_beside_the_network_as_it_is() -> None:
    """Of a generator that is off by its latent; it cannot be given a level above 1, so a search does not reach all."""
    ways = {"searched": Search(0.01), "drawn": Search(0.03, draws=30)}
    alone, found = (evaluator(Follower(0.1), n=800, ways=given).run().results for given in ({}, ways))
    assert [row for row in found.rows if row.of not in ways] == alone.rows
    for on in ("natural", "uniform"):
        for of in ways:
            assert found.value("mae", on, of=of) < found.value("mae", on) / 2
            row = found.find("accepted", on, of=of)
            assert row is not None
            assert row.count == 160
            assert row.value > 0.5
            assert found.value("cost", on, of=of) > 1.5
        assert found.value("accepted", on, of="drawn") > 0.95
        assert found.value("mae", on, of="drawn") < 0.03
    assert found.value("mae", "uniform", of="searched") < 0.02
    assert {row.figure for row in found.rows if row.of == "searched" and row.level is None} == {
        row.figure for row in found.rows if row.of == "shuffled"
    } | {"accepted", "cost"}
