"""The commands with all numbers on a device that is not the host, without a GPU: nothing is left behind."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from second_device import DEVICE, second_device

from stylegan2_msp.classifiers import train as classifier_training
from stylegan2_msp.cli import run
from stylegan2_msp.cli.main import main
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.metrics.results import Results

pytestmark = pytest.mark.slow


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Calls a command on the second device in an empty folder."""
    monkeypatch.chdir(tmp_path)
    brief = classifier_training.Recipe(batch=64, samples=400, min_epochs=1, max_epochs=1, lr=4e-3, weight_decay=1e-2)
    monkeypatch.setattr(classifier_training, "RECIPES", dict.fromkeys(("cnn", "residual", "strided", "mlp"), brief))

    def call(*args: object) -> None:
        monkeypatch.setattr(sys, "argv", ["stylegan2-msp", *map(str, args), "--device", DEVICE.type])
        with second_device():
            run(main)  # leaves by SystemExit where it fails

    return call


@pytest.mark.parametrize("measure", ["msp", "mutual_information", "softmax"])
def test_annotate(command: Callable[..., None], digits_archive: Path, measure: str) -> None:
    options = ("--uncertainty", measure, "--recalibrate", "temperature")
    command("dataset", "annotate", "--data", digits_archive, "--dest", "new.zip", "--classifier", "train", *options)
    assert open_archive("new.zip").uncertainty == measure


def test_generate(command: Callable[..., None], grey_snapshot: Path) -> None:
    asked = ("generate", "--network", grey_snapshot, "--msp", "0.9,0.5", "--seeds", "0-3")
    command(*asked, "--trunc", "0.7")
    command(*asked, "--within", "0.1")
    command(*asked, "--within", "0.1", "--draws", "3", "--steady")


def test_evaluate(command: Callable[..., None], grey_snapshot: Path, digits_archive: Path, tmp_path: Path) -> None:
    data = shutil.copy(digits_archive, tmp_path / "digits.zip")
    command("evaluate", "--network", grey_snapshot, "--data", data, "--images", "80", "--outdir", "found")
    assert Results.read(tmp_path / "found" / "results.json").value("fid", "natural") > 0


def test_report(command: Callable[..., None], grey_snapshot: Path, digits_archive: Path, tmp_path: Path) -> None:
    data = shutil.copy(digits_archive, tmp_path / "digits.zip")
    command("report", "--run", grey_snapshot, "--data", data, "--count", "80", "--outdir", "found")
    assert Results.read(tmp_path / "found" / "results.json").value("mae", "uniform") > 0
