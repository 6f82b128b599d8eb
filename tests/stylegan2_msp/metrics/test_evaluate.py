"""The whole evaluation of generators whose match and quality are known: perfect, blind and inverted ones."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.metrics.asking import bins_of
from stylegan2_msp.metrics.evaluate import Evaluator, RealData
from stylegan2_msp.metrics.judges import KINDS, _kept, make_judges
from stylegan2_msp.metrics.matching import Scale, add_levels
from stylegan2_msp.metrics.observing import Items
from stylegan2_msp.metrics.realism import Reference, add_energy, add_reals
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.search import Search
from stylegan2_msp.uncertainty import Energy, Entropy, Margin, Msp, MutualInformation, TrueClass

N = 1600


@pytest.fixture(scope="module")
def found(real, judges, made_generator):
    """The results of all three."""
    names = ("perfect", "blind", "inverted")
    return {name: Evaluator(made_generator(name), N, real=real, judges=judges).run() for name in names}


@pytest.mark.slow
class TestKnownGenerators:
    def test_the_perfect_one_matches_as_well_as_the_nearest_real_images(self, found):
        results = found["perfect"].results
        for on in ("natural", "uniform"):
            assert results.value("mae", on) < 0.03
            assert results.value("concordance", on) > 0.97
            assert abs(results.value("bias", on)) < 0.02
            assert results.value("gap_equal_mass", on) < 0.02
            assert results.value("levels_covered", on) >= 7 / 8
        assert results.value("spearman", "uniform") > 0.97
        assert results.value("kendall", "uniform") > 0.9
        assert results.value("monotonicity", "uniform") > 0.97
        assert results.value("mae", "uniform") == pytest.approx(
            results.value("mae", "uniform", of="nearest real"), abs=0.02
        )

    def test_the_perfect_one_is_named_right_as_often_as_reals(self, found):
        results = found["perfect"].results
        for name in ("class_agreement", "second_class_agreement"):
            assert results.value(name, "natural") == pytest.approx(results.value(name, "natural", of="reals"), abs=0.05)
        for row in results.levels("class_agreement", "matched"):
            if row.count > 100 and results.find("class_agreement", "matched", "reals", row.level).count > 50:
                reals = results.value("class_agreement", "matched", of="reals", level=row.level)
                assert row.value == pytest.approx(reals, abs=0.12)

    def test_the_second_classifier_follows_the_perfect_one_as_it_follows_reals(self, found):
        results = found["perfect"].results
        ceiling = results.value("second_spearman", "uniform", of="reals")
        assert ceiling > 0.4
        assert results.value("second_spearman", "uniform") == pytest.approx(ceiling, abs=0.12)
        assert results.value("second_mae", "natural") == pytest.approx(
            results.value("second_mae", "natural", of="reals"), abs=0.03
        )
        assert abs(found["blind"].results.value("second_spearman", "uniform")) < 0.05

    def test_the_perfect_ones_images_have_the_kinds_of_corruption_of_reals(self, found):
        results = found["perfect"].results
        for level in found["perfect"].scale.levels:
            for kind in KINDS:
                fakes = results.find(f"share_{kind}", "matched", "fakes", level)
                reals = results.find(f"recorded_{kind}", "matched", "reals", level)
                assert fakes.value == pytest.approx(reals.value, abs=0.2)
        mixes = [
            sum(results.value(f"share_{k}", "matched", level=1.0, of=of) for k in KINDS) for of in ("fakes", "reals")
        ]
        assert mixes == pytest.approx([1, 1])

    def test_the_perfect_ones_images_are_as_good_as_other_reals_and_the_inverted_ones_are_not(self, found):
        perfect, inverted = found["perfect"].results, found["inverted"].results
        assert perfect.value("fid", "natural") < 3 * perfect.value("fid", "natural", of="reals")
        assert perfect.value("precision", "natural") > 0.95
        assert perfect.value("recall", "natural") > 0.6
        assert inverted.value("fid", "natural") > 2 * perfect.value("fid", "natural")
        assert inverted.value("coverage", "natural") < 0.5 * perfect.value("coverage", "natural")
        levels = [row.level for row in perfect.levels("fid", "matched") if row.count > 50]
        assert len(levels) >= 2
        for level in levels:
            assert perfect.value("coverage", "matched", level=level) > inverted.value(
                "coverage", "matched", level=level
            )

    def test_the_blind_one_is_no_better_than_a_shuffled_condition(self, found):
        results = found["blind"].results
        assert abs(results.value("spearman", "uniform")) < 0.02
        assert results.value("monotonicity", "uniform") == pytest.approx(0, abs=1e-9)
        assert results.value("mae", "uniform") == pytest.approx(
            results.value("mae", "uniform", of="shuffled"), abs=0.02
        )
        means = [row.value for row in results.levels("mean", "uniform")]
        assert np.ptp(means) < 1e-6

    def test_the_inverted_one_is_worse_than_a_shuffled_condition(self, found):
        results = found["inverted"].results
        assert results.value("spearman", "uniform") < -0.95
        assert results.value("concordance", "uniform") < -0.9
        assert results.value("monotonicity", "uniform") < -0.95
        assert results.value("mae", "uniform") > results.value("mae", "uniform", of="shuffled") + 0.05
        biases = [row.value for row in results.levels("bias", "uniform")]
        assert biases[0] == pytest.approx(0.7, abs=0.05)
        assert biases[-1] == pytest.approx(-0.7, abs=0.05)

    def test_figures_come_overall_per_class_and_per_level_with_intervals_around_them(self, found):
        results = found["blind"].results
        for on in ("natural", "uniform"):
            for name in ("mae", "rmse", "bias", "spearman", "concordance", "class_agreement", "second_spearman"):
                rows = [results.find(name, on), *(results.find(name, on, cls=k) for k in range(10))]
                for row in rows:
                    if not math.isnan(row.value) and name != "spearman":
                        assert row.low - 1e-9 <= row.value <= row.high + 1e-9, (name, row)
            assert len(results.levels("mean", on)) == 8
        assert sum(results.find("mae", "uniform", cls=k).count for k in range(10)) == N


@pytest.mark.slow
def test_rejection_sampling_and_features_of_ones_own(real, judges, made_generator):
    """A class-only network stands in for the blind one: rejection gets the match, at a cost."""
    network = made_generator("blind")
    pool = made_generator("blind")
    flat = Evaluator(
        network, 800, real=real, judges=judges, features=lambda x: x.flatten(1)[:, ::32].contiguous(), baseline=pool
    ).run()
    results = flat.results
    assert results.value("mae", "uniform", of="rejection") < 0.5 * results.value("mae", "uniform")
    cost = results.value("cost", "uniform", of="rejection")
    assert 1 < cost < 200
    narrow = Evaluator(network, 800, real=real, baseline=pool, search=Search(0.01, 1)).run().results
    assert narrow.value("cost", "uniform", of="rejection") > 2 * cost  # as near as the network itself is asked to be
    assert 0.2 < results.value("accepted", "uniform", of="rejection") <= 1
    assert flat.reals.features.shape[1] == 8
    without = Evaluator(network, 160, real=real, judges=judges, quality=False).run().results
    assert without.find("fid", "natural") is None
    assert without.find("share_blur", "natural") is not None


@pytest.mark.slow
def test_a_search_of_levels_makes_a_shy_generator_exact(real, made_generator):
    plain, searched, perfect = (
        Evaluator(made_generator(name), 800, search=search).run().results
        for name, search in (("shy", None), ("shy", Search(0.02)), ("perfect", None))
    )
    assert plain.value("bias", "uniform") < -0.1
    assert searched.value("mae", "uniform") < plain.value("mae", "uniform") / 3
    assert searched.value("mae", "uniform") < perfect.value("mae", "uniform") + 0.02
    assert searched.value("spearman", "uniform") > 0.97


@pytest.mark.slow
def test_drawing_latents_makes_a_blind_generator_exact_at_the_cost_of_rejection(real, made_generator):
    """A blind generator's levels are evenly spread over 0.7: as many are drawn for one as intervals of 0.1 fit in."""
    blind = made_generator("blind")
    plain = Evaluator(blind, 800).run().results
    found = Evaluator(blind, 800, search=Search(0.05, draws=80)).run()
    assert plain.find("cost", "uniform") is None
    items = found.items["uniform"]
    assert np.abs(items.answered - items.asked)[items.accepted].max() <= 0.05 + 1e-6
    assert items.accepted.mean() > 0.9
    assert found.results.value("mae", "uniform") < plain.value("mae", "uniform") / 5
    assert found.results.value("cost", "uniform", level=0.6) == pytest.approx(0.7 / 0.1, rel=0.35)


def test_without_data_or_judges_only_what_can_be_said(real, made_generator):
    generator = made_generator("perfect")
    alone = Evaluator(generator, 160).run()
    assert {row.on for row in alone.results.rows} == {"uniform"}
    quick = Evaluator(generator, 160, real=real).run().results
    assert {row.on for row in quick.rows} == {"natural", "uniform", "matched"}  # matched: what reals are like
    assert {row.of for row in quick.rows if row.on == "matched"} == {"reals"}
    assert not any(row.figure.startswith(("second", "fid", "share")) for row in quick.rows)
    assert Evaluator(generator, 160).run().results.to_csv() == alone.results.to_csv()


@pytest.mark.slow
@pytest.mark.parametrize("measure", [Entropy(), Margin(), TrueClass()])
def test_any_scalar_measure(real, small_classifier, made_generator, measure):
    """A generator that finds the real image at the asked level of another measure than MSP."""
    classifier = small_classifier.with_measure(measure)
    data = torch.from_numpy(real.data).float() / 127.5 - 1
    with torch.no_grad():
        u = classifier.answer(data, torch.from_numpy(real.archive.classes))[1].numpy()
    other = RealData(replace(real.archive, u=u, uncertainty=measure.name))
    found = Evaluator(made_generator("perfect", other, classifier), 400, real=other).run()
    low, high = (0, 0.7) if measure.certain == "low" else (0.3, 1)
    assert found.scale.levels == pytest.approx(np.linspace(low, high, 8))
    assert found.results.value("mae", "natural") < 0.03
    assert found.results.value("concordance", "uniform") > 0.9
    assert found.results.value("spearman", "uniform", of="shuffled") < 0.3


@pytest.mark.slow
def test_agreement_of_reals_without_recorded_probabilities_is_asked_of_the_classifier(real, made_generator):
    bare = RealData(replace(real.archive, probs=None))
    generator = made_generator("perfect")
    known, asked = (Evaluator(generator, 160, real=data).run().results for data in (real, bare))
    assert asked.value("class_agreement", "natural", of="reals") == known.value(
        "class_agreement", "natural", of="reals"
    )


def test_agreement_of_reals_by_hand():
    """Two classes at two levels: overall, per level, per class, and as if every cell came equally often."""
    classes = np.array([0, 0, 0, 1, 1, 1, 1])
    u = np.array([0.5, 0.5, 1.0, 0.5, 1.0, 1.0, 1.0])
    right = np.array([1, 0, 1, 0, 1, 1, 0])
    everyone = Items(classes, u, np.where(right == 1, classes, 1 - classes), u)
    results = Results()
    add_reals(results, everyone, Reference(None, {}, np.empty(0, int)), Scale([0.5, 1.0], 0.5, 1.0), 0)
    assert bins_of(u, [0.5, 1.0]).tolist() == [0, 0, 1, 0, 1, 1, 1]
    assert results.value("class_agreement", "natural", of="reals") == pytest.approx(4 / 7)
    assert results.value("class_agreement", "matched", of="reals", level=0.5) == pytest.approx(1 / 3)
    assert results.value("class_agreement", "uniform", of="reals", level=0.5) == pytest.approx((1 / 2 + 0) / 2)
    assert results.value("class_agreement", "uniform", of="reals", cls=1) == pytest.approx((0 + 2 / 3) / 2)
    assert results.value("class_agreement", "uniform", of="reals") == pytest.approx((1 / 2 + 1 + 0 + 2 / 3) / 4)


def test_one_real_at_a_level_has_a_wide_interval_and_widens_that_of_all():
    """All of a hundred are named right at the upper level, the one at the lower level wrong."""
    u = np.array([0.5] + [1.0] * 100)
    predicted = np.array([1] + [0] * 100)
    everyone = Items(np.zeros(101, int), u, predicted, u, second_predicted=predicted, second_answered=u - 0.1)
    results = Results()
    add_reals(results, everyone, Reference(everyone, {}, np.arange(101)), Scale([0.5, 1.0], 0.5, 1.0), 0)
    for figure, on in (
        ("class_agreement", "matched"),
        ("class_agreement", "uniform"),
        ("second_class_agreement", "matched"),
    ):
        row = results.find(figure, on, "reals", 0.5)
        assert (row.value, row.low, row.count) == (0, 0, 1)
        assert row.high > 0.75
    assert np.isnan(results.find("second_mean", "matched", "reals", 0.5).low)
    for cls in (None, 0):
        row = results.find("class_agreement", "uniform", "reals", cls=cls)
        assert row.value == 0.5
        assert row.low == pytest.approx(0.5, abs=0.03)
        assert row.high > 0.85


def test_fakes_that_all_agree_at_a_level_leave_room_for_some_that_do_not():
    scale, u = Scale([0.5, 1.0], 0.5, 1.0), np.repeat([0.5, 1.0], 25)
    results = Results()
    add_levels(results, Items(np.zeros(50, int), u, np.zeros(50, int), u), scale, "matched", 0)
    assert results.find("class_agreement", "matched", level=0.5).low == pytest.approx(0.867, abs=1e-3)


def test_energy_ratio_is_about_1_for_another_sample_and_large_for_another_cloud():
    rng = np.random.default_rng(0)
    reals = rng.normal(size=(2000, 2)).astype(np.float32)
    seen = Items(np.zeros(2000, int), np.ones(2000), np.zeros(2000, int), np.ones(2000), features=reals)
    reference = Reference(seen, {None: (np.arange(1000), np.arange(1000, 2000))}, np.arange(10))
    for shift, low, high in ((0.0, 0.6, 1.7), (1.0, 100, 1e4)):
        fake = (rng.normal(size=(1000, 2)) + shift).astype(np.float32)
        results = Results()
        add_energy(results, reference, replace(seen.take(np.arange(1000)), features=fake), 0)
        row = results.find("energy_ratio", "natural")
        assert low < row.value < high
        assert np.isnan(row.low)  # draws that share their items say nothing of another sample
        assert results.find("energy_ratio", "natural", cls=0).count == 1000


@pytest.mark.slow
def test_judges_are_kept_beside_the_data_and_made_again_when_damaged(real, judges, capsys):
    folder = real.archive.path.parent
    files = sorted(folder.glob(".digits.*.safetensors"), key=lambda p: p.name.split(".")[-2])
    assert [p.name.split(".")[-2] for p in files] == ["probe", "second"]
    assert judges.second.spec.arch == "residual"
    assert judges.second.spec.report["val_accuracy"] > 0.85
    assert judges.probe.spec.report["val_accuracy"] > 0.85
    assert 0 < len(judges.held_out) < 0.12 * len(real.archive)
    capsys.readouterr()
    again = make_judges(real.archive, real.data, Msp(), torch.device("cpu"))
    assert "training" not in capsys.readouterr().out
    assert again.second.sha256 == judges.second.sha256
    assert again.unit == pytest.approx(judges.unit)
    kept = files[0].read_bytes()
    files[0].write_bytes(kept[:100])
    make_judges(real.archive, real.data, Msp(), torch.device("cpu"))
    assert "is damaged and is made again" in capsys.readouterr().out
    assert files[0].read_bytes() == kept


def test_judges_that_cannot_be_kept_judge_all_the_same(tmp_path, monkeypatch, capsys):
    """A disk that is full, or a colleague's unreadable file in a folder where everybody may only replace their own."""
    archive = SimpleNamespace(path=tmp_path / "data.zip", content_sha256="0" * 64)
    trained = SimpleNamespace(to_bytes=lambda: b"weights")

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refused)
    assert _kept(archive, "second", "residual", {}, lambda: trained) is trained
    assert "cannot be written (Operation not permitted)" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_second_classifier_takes_the_measure_with_a_range_of_its_own(real, judges):
    energy = make_judges(real.archive, real.data, Energy(lowest=-1e6, highest=1e6), torch.device("cpu")).second
    x = torch.from_numpy(real.data[:500]).float() / 127.5 - 1
    u = energy.uncertainty(x)
    assert energy.measure.highest < 1e3
    assert float(((u >= 0) & (u <= 1)).float().mean()) > 0.98
    assert make_judges(real.archive, real.data, MutualInformation(), torch.device("cpu")).second.measure == Msp()


def test_an_archive_without_kinds_has_no_probe(digits_archive):
    assert RealData(open_archive(digits_archive)).kinds is None


def test_reals_on_the_grid_have_an_interval_and_weigh_levels_alike():
    """Class 1 has nothing at the lower level, where class 0 is named right half of the time."""
    scale = Scale([0.5, 1.0], 0.5, 1.0)
    rng = np.random.default_rng(0)
    classes = np.array([0] * 100 + [0] * 100 + [1] * 100)
    u = np.array([0.5] * 100 + [1.0] * 200)
    named = classes.copy()
    named[:50] = 1
    v = u + rng.normal(scale=0.1, size=300)
    seen = Items(classes, u, named, u, second_predicted=named, second_answered=v)
    results = Results()
    add_reals(results, seen, Reference(seen, {}, np.arange(300)), scale, 0)
    assert results.value("class_agreement", "uniform", of="reals") == pytest.approx((0.5 + 1) / 2)
    row = results.find("second_spearman", "uniform", of="reals")
    assert row.low < row.value < row.high
    again = []
    for seed in range(20):  # other reals of the same kind
        v = u + np.random.default_rng(seed + 1).normal(scale=0.1, size=300)
        others, other = replace(seen, second_answered=v), Results()
        add_reals(other, others, Reference(others, {}, np.arange(300)), scale, 0)
        again.append(other.value("second_spearman", "uniform", of="reals"))
    assert 0.5 < (row.high - row.low) / (4 * np.std(again)) < 2
