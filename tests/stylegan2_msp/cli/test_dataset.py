"""The dataset commands as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from stylegan2_msp.cli.dataset import dataset
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def invoke(*args: str | Path) -> Result:
    result = CliRunner().invoke(dataset, [str(arg) for arg in args])
    if result.exception and not isinstance(result.exception, (SystemExit, UserError)):
        raise result.exception
    return result


def script(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "dataset_tool.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_digits_in_a_process_of_its_own_twice_the_same(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        done = script("digits", "--corrupt", "gaussian", "--classifier", "none", "--dest", tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert f"{tmp_path / 'b.zip'}: 1442 images, 16x16x1, train split" in done.stdout
    assert "10 classes (0: 143, " in done.stdout
    assert "corruption by imagenet-c: none 50.0 %" in done.stdout
    assert "no uncertainty yet: dataset_tool.py annotate" in done.stdout


def test_bad_source_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = script("mnist", "--source", tmp_path, "--dest", tmp_path / "x.zip")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: --source {tmp_path}: holds neither")
    assert list(tmp_path.iterdir()) == []


def test_moons(tmp_path: Path) -> None:
    args = ("moons", "--num", "300", "--noise", "0.1", "--classifier", "none")
    assert "300 points, 2-D, train split" in invoke(*args, "--dest", tmp_path / "a.zip").output
    invoke(*args, "--dest", tmp_path / "b.zip", "--seed", "1")
    invoke(*args, "--dest", tmp_path / "c.zip", "--split", "test")
    points = [open_archive(tmp_path / name).load_points() for name in ("a.zip", "b.zip", "c.zip")]
    assert not np.array_equal(points[0], points[1])
    assert not np.array_equal(points[0], points[2])


def test_folder_into_a_folder(tmp_path: Path) -> None:
    invoke("digits", "--max-images", "50", "--classifier", "none", "--dest", tmp_path / "a.zip")
    done = invoke("folder", "--source", tmp_path / "a.zip", "--resolution", "8", "--dest", tmp_path / "small")
    assert done.exit_code == 0
    archive = open_archive(tmp_path / "small")
    assert (len(archive), archive.img_resolution, archive.split) == (50, 8, None)
    np.testing.assert_array_equal(archive.classes, open_archive(tmp_path / "a.zip").classes)


def test_table_and_size_are_recorded(tmp_path: Path) -> None:
    args = ("--corrupt", "gaussian", "--corrupt-table", "cifar-c", "--max-images", "31", "--classifier", "none")
    invoke("digits", *args, "--split", "test", "--dest", tmp_path / "a.zip")
    archive = open_archive(tmp_path / "a.zip")
    assert archive.corruption is not None
    assert archive.corruption.table == "cifar-c"
    assert archive.corruption.kind.count("none") == 16
    assert archive.split == "test"


def test_no_classifier_is_trained_on_a_test_split(tmp_path: Path) -> None:
    done = invoke("digits", "--split", "test", "--classifier", "train", "--dest", tmp_path / "a.zip")
    assert done.exit_code == 2
    assert "would train on test data" in done.output
    assert invoke("digits", "--split", "test", "--dest", tmp_path / "a.zip").exit_code == 0
    assert not open_archive(tmp_path / "a.zip").annotated


@pytest.mark.parametrize("dest", ["data.tar", "file/data.zip"])
def test_bad_destination_is_found_before_any_work(tmp_path: Path, dest: str) -> None:
    (tmp_path / "file").write_text("here")
    done = invoke("mnist", "--source", tmp_path / "nowhere", "--dest", tmp_path / dest)
    assert isinstance(done.exception, UserError)
    assert str(tmp_path / dest.split("/")[0]) in str(done.exception)


def test_real_mnist_corrupted_after_padding(tmp_path: Path, mnist_dir: Path) -> None:
    args = ("--corrupt", "gaussian", "--max-images", "2000", "--classifier", "none")
    invoke("mnist", "--source", mnist_dir, *args, "--dest", tmp_path / "a.zip")
    samples = open_archive(tmp_path / "a.zip").load()
    assert samples.corruption is not None
    noisy = np.array(samples.corruption.kind) == "noise"
    assert (samples.data[noisy][:, 0, :2] > 0).mean() > 0.3
    assert samples.data[np.array(samples.corruption.kind) == "none"][:, 0, :2].max() == 0


def test_one_command_yields_an_archive_ready_for_training(tmp_path: Path) -> None:
    """The same bytes as source and annotation one after the other."""
    args = ("digits", "--max-images", "150", "--corrupt", "gaussian", "--device", "cpu")
    assert invoke(*args, "--dest", tmp_path / "one.zip").exit_code == 0
    assert invoke(*args, "--classifier", "none", "--dest", tmp_path / "plain.zip").exit_code == 0
    step = ("annotate", "--data", tmp_path / "plain.zip", "--classifier", "train", "--device", "cpu")
    assert invoke(*step, "--dest", tmp_path / "two.zip").exit_code == 0
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    archive = open_archive(tmp_path / "one.zip")
    assert archive.labels().shape == (150, 11)
    assert archive.probs is not None
    assert archive.classifier_bytes


def test_test_split_takes_the_training_archives_classifier(tmp_path: Path) -> None:
    invoke("moons", "--num", "200", "--device", "cpu", "--dest", tmp_path / "train.zip")
    invoke(
        "moons", "--num", "100", "--split", "test", "--classifier", tmp_path / "train.zip", "--dest", tmp_path / "t.zip"
    )
    train, test = open_archive(tmp_path / "train.zip"), open_archive(tmp_path / "t.zip")
    assert test.split == "test"
    assert test.annotated
    assert test.classifier_bytes == train.classifier_bytes


def test_measure_and_recalibration_are_options_of_every_source(tmp_path: Path) -> None:
    args = ("moons", "--num", "300", "--device", "cpu", "--uncertainty", "margin", "--recalibrate", "vector")
    done = invoke(*args, "--dest", tmp_path / "one.zip")
    assert done.exit_code == 0, done.output
    archive = open_archive(tmp_path / "one.zip")
    assert archive.uncertainty == "margin"
    np.testing.assert_allclose(archive.u, np.abs(archive.probs[:, 0] - archive.probs[:, 1]), atol=1e-6)
    assert (tmp_path / "one-calibration.json").is_file()
    assert (tmp_path / "one-reliability.png").is_file()
    for source in ("digits", "mnist", "folder", "moons", "annotate"):
        text = invoke(source, "--help").output
        assert all(option in text for option in ("--uncertainty", "--recalibrate", "--holdout")), source


@pytest.mark.parametrize(
    "option", [("--uncertainty", "entropy"), ("--recalibrate", "isotonic"), ("--holdout", "x.zip")]
)
def test_a_measure_wants_a_classifier(tmp_path: Path, option: tuple[str, str]) -> None:
    done = invoke("digits", "--classifier", "none", *option, "--dest", tmp_path / "a.zip")
    assert done.exit_code == 2
    assert f"{option[0]}: wants a classifier" in done.output
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("option", ["--data", "--dest"])
def test_a_path_that_cannot_be_looked_at_is_one_line(tmp_path: Path, option: str) -> None:
    words = {"--data": tmp_path / "x.zip", "--dest": tmp_path / "y.zip"} | {option: tmp_path / ("x" * 300 + ".zip")}
    done = script("annotate", "--classifier", "train", *(str(word) for pair in words.items() for word in pair))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "File name too long" in done.stderr


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    done = invoke("digits", "--corrupt-table", "cifar-c", "--classifier", "none", "--dest", tmp_path / "x.zip")
    assert done.exit_code == 2
    assert "--corrupt-table: says how strongly --corrupt changes images" in done.output
    done = invoke("moons", "--noise", "nan", "--dest", tmp_path / "x.zip")
    assert done.exit_code == 2
    assert "nan is no finite number" in done.output
