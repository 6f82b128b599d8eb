"""The benchmarks run as their users run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, timeout: int = 500, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", **env}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.slow
@pytest.mark.long
def test_gpu_check_goes_through_all_stages_without_a_gpu(tmp_path: Path) -> None:
    stages = ["doctor", "ops", "step", "step-ada", "step-pl", "data", "train", "report", "generate"]
    more = {"MNIST_DIR": "", "STAGES": " ".join(stages)}  # not its run of the GPU tests, and one size is enough
    found = run("bash", "benchmarks/gpu_check.sh", str(tmp_path / "out"), "--quick", "--minutes", "2", **more)
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert found.returncode == 0, found.stdout + summary
    for stage in stages:
        assert f"| {stage} | passed |" in summary, summary
    assert json.loads((tmp_path / "out" / "step.json").read_text())["machine"]
    assert (tmp_path / "out" / "report" / "results.json").is_file()
    assert (tmp_path / "out" / "generated" / "grid.png").is_file()


def test_gpu_check_goes_on_after_a_stage_that_fails(tmp_path: Path) -> None:
    found = run("bash", "benchmarks/gpu_check.sh", str(tmp_path), MNIST_DIR="", STAGES="report doctor generate")
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert found.returncode == 1
    assert "| doctor | passed |" in summary
    assert "| report | FAILED |" in summary
    assert "| generate | FAILED |" in summary
    assert "stage(s) failed" in summary


def test_gpu_check_wants_a_folder() -> None:
    found = run("bash", "benchmarks/gpu_check.sh")
    assert found.returncode == 2
    assert found.stderr.startswith("error: name the folder")


@pytest.mark.slow
def test_bench_step_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    command = [sys.executable, "benchmarks/bench_step.py", "--config", "narrow", "--batch", "8", "--rounds", "1"]
    found = run(*command, "--ada", "0.3", "--path-length", "--out", str(out))
    assert found.returncode == 0, found.stderr
    (row,) = json.loads(out.read_text())["rows"]
    ours = row["ours"]
    assert ours["img_per_s"] * ours["sec_per_kimg"] == pytest.approx(1000)
    assert {"Gmain_ms", "Greg_ms", "Dmain_ms", "Dreg_ms", "step_ms", "peak_gib"} <= set(ours)
    assert 0 < ours["share_of_matrix_peak"] < 1
    # Four convolutions of 3x3 at 32x32 dominate: the count must lie between half and twice of their share.
    assert 0.2 < ours["gflop_per_image"] < 0.8


def test_bench_step_says_what_is_no_checkout(tmp_path: Path) -> None:
    found = run(sys.executable, "benchmarks/bench_step.py", "--config", "narrow", "--reference", str(tmp_path))
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == (  # a CUDA build of torch may say before that it finds no driver
        f"--reference {tmp_path}: no stylegan2-ada-pytorch checkout (training/networks.py is missing)"
    )


@pytest.mark.slow
def test_bench_scaling_measures_a_point_of_each_kind() -> None:
    code = """
import json, sys
sys.path.insert(0, "benchmarks")
import bench_scaling, torch
point = bench_scaling.measure({"batch": 8}, 1, torch.device("cpu"), "fp32")
print(json.dumps([point, bench_scaling.processes(2, 1)]))
"""
    found = run(sys.executable, "-c", code)
    assert found.returncode == 0, found.stderr
    point, two = json.loads(found.stdout.splitlines()[-1])
    assert 1 < point["sec_per_kimg"] < 1000
    assert 0.2 < point["gflop_per_image"] < 0.8
    assert 1 < two["sec_per_kimg"] < 1000


@pytest.mark.parametrize(("stage", "failed"), [("doctor", True), ("train", False)])
def test_gpu_check_counts_a_stage_that_runs_out_of_time(tmp_path: Path, stage: str, failed: bool) -> None:
    """But for the training, whose length is the limit: an endless stand-in for Python runs every stage."""
    slow = tmp_path / "python"
    slow.write_text('#!/bin/bash\ncase "$1" in -c) exit 1 ;; esac\nexec sleep 30\n')
    slow.chmod(0o755)
    short = (ROOT / "benchmarks" / "gpu_check.sh").read_text()
    short = short.replace("stage doctor 120", "stage doctor 1").replace(
        "stage train $((minutes * 60))", "stage train 1"
    )
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gpu_check.sh").write_text(short)
    script, out = str(tmp_path / "benchmarks" / "gpu_check.sh"), str(tmp_path / "out")
    found = run("bash", script, out, PYTHON=str(slow), MNIST_DIR="", STAGES=stage)
    assert found.returncode == failed, found.stdout
    assert f"| {stage} | stopped after 1 s |" in found.stdout
    assert ("1 stage(s) failed" in found.stdout) == failed


def test_gpu_check_wants_whole_minutes() -> None:
    found = run("bash", "benchmarks/gpu_check.sh", "out", "--minutes", "0")
    assert found.returncode == 2
    assert found.stderr.startswith("error: --minutes: must be a whole number from 1 on, found 0")


@pytest.mark.slow
def test_bench_step_keeps_what_it_has_when_a_size_fails(tmp_path: Path) -> None:
    code = """
import sys
sys.path.insert(0, "benchmarks")
import bench_step, torch
bench = bench_step.bench
def failing(config, *more):
    if config == "small":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
    return bench(config, *more)
bench_step.bench = failing
bench_step.main()
"""
    out = tmp_path / "step.json"
    words = ["--config", "small", "--config", "narrow", "--batch", "8", "--rounds", "1", "--out", str(out)]
    found = run(sys.executable, "-c", code, *words)
    assert found.returncode == 1
    assert "small fp32 fails: CUDA out of memory." in found.stdout
    assert found.stderr.strip() == "failed: small fp32"
    saved = json.loads(out.read_text())
    assert [row["config"] for row in saved["rows"]] == ["narrow"]
    assert saved["failed"] == ["small fp32"]


def test_bench_train_trains_the_same_preset_on_every_device() -> None:
    code = """
import sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
import bench_train
def run(command, folder):
    sys.exit(" ".join(map(str, command)))
bench_train.run = run
bench_train.train_ours(Path("data.zip"), 1, 1, 0, Path())
"""
    assert " --cfg=tiny " in run(sys.executable, "-c", code).stderr


def test_draw_shows_what_was_measured(tmp_path: Path) -> None:
    source = ROOT / "benchmarks" / "results" / "step-cpu-zen4.json"
    found = run(sys.executable, "benchmarks/draw.py", str(source), str(tmp_path / "step.svg"))
    assert found.returncode == 0, found.stderr
    ratios = [value for row in json.loads(source.read_text())["rows"] for value in row["ratio"].values()]
    drawn = (tmp_path / "step.svg").read_text()
    assert len(ratios) == 16
    assert all(f"<!-- {value:.2f} -->" in drawn for value in ratios)
    ops = run(sys.executable, "benchmarks/draw.py", "benchmarks/results/ops-cpu.json", str(tmp_path / "ops.svg"))
    assert ops.returncode == 0, ops.stderr
    assert "<!-- conv2d_resample down 2, channels_last -->" in (tmp_path / "ops.svg").read_text()


def test_draw_wants_a_reference(tmp_path: Path) -> None:
    alone = "benchmarks/results/step-cpu-zen4-ada.json"
    found = run(sys.executable, "benchmarks/draw.py", alone, str(tmp_path / "step.png"))
    assert found.returncode == 1
    assert found.stderr.startswith("Error: no row was timed beside the reference")
    assert not (tmp_path / "step.png").exists()
