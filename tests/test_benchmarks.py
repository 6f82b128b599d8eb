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
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert found.returncode == 0, found.stdout + summary
    for stage in stages:
        assert f"| {stage} | passed |" in summary, summary
    assert json.loads((tmp_path / "out" / "step.json").read_text())["machine"]
    assert (tmp_path / "out" / "report" / "results.json").is_file()
    assert (tmp_path / "out" / "generated" / "grid.png").is_file()


def test_gpu_check_goes_on_after_a_stage_that_fails(tmp_path: Path) -> None:
    found = run("bash", "benchmarks/gpu_check.sh", str(tmp_path), MNIST_DIR="", STAGES="report doctor generate")
    summary = (tmp_path / "summary.md").read_text()
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
    assert found.stderr.strip() == (
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
