"""From points or digits to pictures with measures other than MSP: annotate, train a moment, generate, report."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stylegan2_msp.cli import run
from stylegan2_msp.cli.main import main
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.generation import load_generator
from stylegan2_msp.report.run import report_run
from stylegan2_msp.training.launch import start
from stylegan2_msp.training.plan import Machine

TRAIN = ["--cfg", "points", "--batch", "32", "--kimg", "0.64", "--tick", "0.32", "--snap", "1"]
TERMS = ["--consistency", "1", "--consistency-kimg", "0.1", "--flatten", "0.5", "--device", "cpu", "--gpus", "1"]


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Calls a command in an empty folder and returns its standard output."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["stylegan2-msp", *map(str, words)])
        with suppress(SystemExit):
            run(main)
        out = capsys.readouterr()
        assert "error:" not in out.err
        return out.out

    return call


def moons(command, *options) -> Path:
    command("dataset", "moons", "--num", "400", "--dest", "moons.zip", "--device", "cpu", *options)
    return Path("moons.zip")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["entropy", "true_class", "energy", "mutual_information", "softmax"])
def test_moons(command, tmp_path, name) -> None:
    data = moons(command, "--uncertainty", name)
    archive = open_archive(data)
    width = 2 if name == "softmax" else 1
    assert archive.uncertainty == name
    assert archive.labels().shape == (400, 2 + width)
    command("train", "--data", data, *TRAIN, *TERMS)
    (folder,) = (tmp_path / "training-runs").iterdir()
    rows = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert rows[-1]["loss/consistency"] > 0
    assert rows[-1]["condition/uniform_mae"] > 0
    generator = load_generator(folder, "cpu")
    assert f"{generator.measure.title} natural: rho" in (folder / "log.txt").read_text()
    assert generator.measure.name == name
    assert generator.snapshot.info["uncertainty"] == name
    assert generator.classifier.to_bytes() == archive.classifier_bytes
    command("generate", "--uncertainty", "0.4,0.8", "--seeds", "0-5", "--device", "cpu")
    with open("out/generated.csv", newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [r["uncertainty_in"] for r in found] == ["0.4"] * 6 + ["0.8"] * 6
    points = torch.tensor([[float(r["x"]), float(r["y"])] for r in found])
    classes = torch.tensor([int(r["class"]) for r in found])
    _, u = generator.classifier.answer(points, classes)
    np.testing.assert_allclose([float(r["uncertainty_out"]) for r in found], u, atol=1e-3)
    report = report_run(folder, tmp_path / "report", n=40, device="cpu")
    assert report.results.about["uncertainty"] == generator.measure.title
    assert report.notes == []
    assert generator.measure.title in (tmp_path / "report" / "results.md").read_text(encoding="utf-8")


def test_labels_of_one_measure_with_the_classifier_of_another_are_refused(moons_archive, tmp_path) -> None:
    samples = open_archive(moons_archive).load()
    note = replace(
        samples.annotation, uncertainty="true_class", u=samples.annotation.probs[range(500), samples.classes]
    )
    path = write_archive(tmp_path / "mixed.zip", replace(samples, annotation=note), progress=False)
    with pytest.raises(UserError, match="its labels are true_class, its classifier gives msp; annotate again"):
        start({"data": str(path), "kimg": 0.01}, tmp_path / "runs", None, Machine(device="cpu"), dry_run=True)


@pytest.mark.slow
def test_digits_by_entropy_of_a_recalibrated_classifier(command, tmp_path) -> None:
    out = command(
        "dataset", "digits", "--corrupt", "gaussian", "--max-images", "300", "--dest", "digits.zip", "--device", "cpu",
        "--uncertainty", "entropy", "--recalibrate", "temperature",
    )  # fmt: skip
    assert "recalibration: temperature" in out
    assert "entropy quantiles" in out
    assert json.loads(Path("digits-calibration.json").read_text())["held_out"] == "the part that was not trained on"
    assert Path("digits-reliability.png").is_file()
    small = ["--cfg", "tiny", "--batch", "8", "--kimg", "0.064", "--tick", "0.032", "--snap", "1", "--z-dim", "16"]
    command("train", "--data", "digits.zip", *small, "--consistency-kimg", "0.02", "--device", "cpu", "--gpus", "1")
    (folder,) = (tmp_path / "training-runs").iterdir()
    assert (folder / "reals.png").is_file()
    assert (folder / "fakes000000.png").is_file()
    command("generate", "--uncertainty", "0:0.6:3", "--seeds", "0-2", "--class", "3", "--device", "cpu")
    assert Path("out/class3-entropy0.30-seed0001.png").is_file()
    images = load_generator(folder, "cpu").sample(classes=[3, 3], uncertainty=0.3, seeds=[0, 1])
    assert images.shape == (2, 1, 16, 16)


@pytest.mark.slow
def test_a_folder_of_images_is_annotated_by_a_brought_classifiers_margin(command, tmp_path) -> None:
    command("dataset", "digits", "--max-images", "200", "--dest", "digits", "--device", "cpu", "--classifier", "none")
    first = command(
        "dataset", "annotate", "--data", "digits", "--dest", "first.zip", "--classifier", "train", "--device", "cpu"
    )
    assert "MSP quantiles" in first
    out = command(
        "dataset", "folder", "--source", "digits", "--dest", "second.zip", "--classifier", "first.zip",
        "--uncertainty", "margin", "--device", "cpu",
    )  # fmt: skip
    assert "margin quantiles" in out
    archive = open_archive("second.zip")
    ranked = np.sort(archive.probs, axis=1)
    np.testing.assert_allclose(archive.u, ranked[:, -1] - ranked[:, -2], atol=1e-5)
