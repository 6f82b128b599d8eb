"""The report of a run: its figures of merit are those of its own images."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from stylegan2_msp.cli import run
from stylegan2_msp.cli.report import report
from stylegan2_msp.data.annotate import annotate_samples
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.generation import load_generator
from stylegan2_msp.metrics.asking import ask_uniform, uniform_levels
from stylegan2_msp.metrics.observing import Observers, observe_fakes
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.metrics.scores import mae
from stylegan2_msp.report.run import evaluate_network, report_run
from stylegan2_msp.report.table import markdown_table
from stylegan2_msp.snapshot import save_snapshot


@pytest.fixture
def finished(tmp_path, grey, digits_archive):
    """A run folder on the digits."""
    folder = tmp_path / "training-runs" / "00000-digits"
    folder.mkdir(parents=True)
    archive = open_archive(digits_archive)
    info = {
        **grey.snapshot.info,
        "data": {"name": archive.path.name, "sha256": archive.content_sha256},
        "config": {"data": str(digits_archive)},
    }
    save_snapshot(folder / "network-snapshot-000001.safetensors", grey.G, grey.classifier.to_bytes(), info)
    rows = [{"kimg": k, "condition/natural_mae": 0.3 - k / 100, "condition/uniform_mae": 0.4} for k in (1, 2)]
    (folder / "stats.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"kimg": 3, "condi')
    return folder


def test_data_of_any_name_can_be_reported_on(finished, tmp_path, digits_archive):
    """Latin-1, or UTF-8 where LC_ALL=C hides it; the table could not be written when all was measured."""
    odd = tmp_path / os.fsdecode(b"d\xe4ta.zip")
    try:
        odd.write_bytes(digits_archive.read_bytes())
    except OSError:
        pytest.skip("a file system of UTF-8 names")
    report_run(finished, tmp_path / "report", odd, n=20, device="cpu")
    assert "data d\\udce4ta.zip" in (tmp_path / "report" / "results.md").read_text(encoding="utf-8")


def test_everything_is_written_and_the_figures_are_those_of_the_generator(finished, tmp_path, grey, digits_archive):
    done = report_run(finished, tmp_path / "report", n=160, seed=3, device="cpu")
    assert {p.name for p in (tmp_path / "report").iterdir()} == {
        "fig3_grid.png",
        "fig4_in_out.png",
        "fig4_natural.png",
        "levels_grid.png",
        "training_curves.png",
        "fig2b_levels.png",
        "results.json",
        "results.csv",
        "results.md",
    }
    results = Results.read(tmp_path / "report" / "results.json")
    asked = ask_uniform(10, uniform_levels(10), 160, 16, torch.Generator().manual_seed(3))
    items = observe_fakes(grey.G, Observers(grey.classifier), asked)
    assert results.value("mae", "uniform") == pytest.approx(mae(items.asked, items.answered), abs=1e-5)
    assert results.find("mae", "uniform").count == results.find("mae", "natural").count == 160
    assert [row.count for row in results.levels("mean", "uniform")] == [20] * 8
    assert sum(results.find("mae", "natural", cls=k).count for k in range(10)) == 160
    archive = open_archive(digits_archive)
    assert (
        results.value("class_agreement", "natural", of="reals") == (archive.classes == archive.probs.argmax(1)).mean()
    )
    assert (results.about["kimg"], results.about["seed"], done.notes) == (1.5, 3, [])


def test_table_says_undefined_and_shows_both_distributions(finished, tmp_path):
    results = report_run(finished, tmp_path / "report", n=80, device="cpu").results
    row = results.find("spearman", "natural")
    results.rows[results.rows.index(row)] = replace(row, value=float("nan"))
    text = markdown_table(results)
    assert "natural, fakes | natural, reals | uniform, fakes" in text
    assert "| Spearman | undefined (" in text
    assert f"{results.value('mae', 'uniform'):.3f} (" in text
    assert text.count("| 0.30 |") == 1
    assert "FID" not in text


def test_without_the_data_only_uniform_figures(finished, tmp_path, grey):
    path = finished / "network-snapshot-000001.safetensors"
    save_snapshot(path, grey.G, grey.classifier.to_bytes(), {**grey.snapshot.info, "config": {"data": "gone.zip"}})
    (finished / "stats.jsonl").unlink()
    done = report_run(finished, tmp_path / "report", n=80, device="cpu")
    assert done.results.find("mae", "natural") is None
    assert done.results.find("mae", "uniform") is not None
    assert len(done.notes) == 2
    assert "gone.zip" in done.notes[0]


def test_points_get_figures_2a_and_2b(tmp_path, points_snapshot, moons_archive, monkeypatch, capsys):
    args = ["--run", points_snapshot, "--data", moons_archive, "--outdir", tmp_path / "r", "--count", "64"]
    monkeypatch.setattr(sys, "argv", ["report", *map(str, args)])
    run(report)
    assert {"fig2a_points.png", "fig2b_levels.png", "fig4_in_out.png", "results.md"} <= {
        p.name for p in (tmp_path / "r").iterdir()
    }
    out = capsys.readouterr()
    assert "results.json" in out.out
    assert "is not the data" in out.err


def test_too_few_items_for_every_class_are_told(finished, tmp_path):
    (note,) = report_run(finished, tmp_path / "r", n=79, device="cpu").notes
    assert note == "79 items are of 9 of the 10 classes on the uniform grid; ask for 80 or more"
    assert report_run(finished, tmp_path / "r", n=80, device="cpu").notes == []


def test_data_by_another_classifier_are_told_from_other_data_by_the_same(finished, tmp_path, grey, digits_archive):
    samples = open_archive(digits_archive).load()
    own = tmp_path / "own.safetensors"
    own.write_bytes(grey.classifier.to_bytes())
    for options, alike in (({}, True), ({"recalibration": "temperature"}, False)):
        again = annotate_samples(samples.take(np.arange(300)), str(own), device="cpu", **options)
        path = write_archive(tmp_path / "again.zip", again, progress=False)
        (note,) = report_run(finished, tmp_path / "r", data=path, n=80, device="cpu").notes
        assert note.startswith(f"{path} is not the data that the run was trained on")
        assert ("its levels are by another classifier" in note) != alike


def test_data_of_another_kind_and_generators_without_msp_are_refused(
    tmp_path, finished, moons_archive, class_only, grey
):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="points of 2 classes"):
        report_run(finished, tmp_path / "r", data=moons_archive, device="cpu")
    path = tmp_path / "class.safetensors"
    save_snapshot(path, class_only.G, grey.classifier.to_bytes(), class_only.snapshot.info)
    with pytest.raises(UserError, match="without MSP"):
        report_run(path, tmp_path / "r", device="cpu")
    save_snapshot(tmp_path / "alone.safetensors", grey.G, None, grey.snapshot.info)
    with pytest.raises(UserError, match="holds no classifier to ask"):
        report_run(tmp_path / "alone.safetensors", tmp_path / "r", device="cpu")
    assert not (tmp_path / "r").exists()
    assert load_generator(path, "cpu").takes_u is False
    for place in ("absent", "."):
        with pytest.raises(UserError, match=r"; (train first, or )?name (a network-snapshot-|such a file)") as error:
            report_run(tmp_path / "empty" / place, tmp_path / "r", device="cpu")
        assert "--network" not in str(error.value)  # `report` has --run


def test_data_whose_classes_are_named_otherwise_are_refused(tmp_path, points_snapshot, moons_archive):
    """In another order the figures would be those of other classes."""
    samples = replace(open_archive(moons_archive).load(), class_names=["lower", "upper"])
    other = write_archive(tmp_path / "other.zip", samples)
    with pytest.raises(UserError, match=r"other\.zip: has the classes lower, upper, the snapshot upper, lower; give"):
        report_run(points_snapshot, tmp_path / "report", data=other, n=80, device="cpu")


def test_results_json_comes_last(finished, tmp_path):
    """`reproduce` takes it for the sign that a measurement is whole, and would never write what is missing."""
    outdir = tmp_path / "report"
    (outdir / "results.md").mkdir(parents=True)  # where a file cannot be put
    with pytest.raises(UserError, match=r"results\.md: cannot be written"):
        report_run(finished, outdir, n=20, device="cpu")
    assert (outdir / "results.csv").is_file()
    assert not (outdir / "results.json").exists()


def test_features_that_there_are_not_are_refused(tmp_path, points_snapshot, moons_archive):
    with pytest.raises(UserError, match="--features vgg: is not one of second, inception, none"):
        evaluate_network(points_snapshot, moons_archive, tmp_path / "e", n=16, features="vgg")
    assert not (tmp_path / "e").exists()
