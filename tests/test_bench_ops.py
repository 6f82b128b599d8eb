"""benchmarks/bench_ops.py: a quick run as a real process, and what it says of a stand-in for a reference checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "bench_ops.py"

# As much of a checkout as the benchmark imports; bias_act is right, grid_sample has no second derivative.
CHECKOUT = {
    "training/networks.py": "",
    "training/loss.py": "",
    "training/augment.py": "",
    "torch_utils/misc.py": "",
    "torch_utils/ops/upfirdn2d.py": "",
    "torch_utils/ops/conv2d_resample.py": "",
    "torch_utils/ops/conv2d_gradfix.py": "",
    "torch_utils/ops/bias_act.py": (
        "import torch\n"
        "def bias_act(x, b, act, clamp=None):\n"
        "    y = torch.nn.functional.leaky_relu(x + b.reshape(1, -1, 1, 1), 0.2) * 2**0.5\n"
        "    return y if clamp is None else y.clamp(-clamp, clamp)\n"
    ),
    "torch_utils/ops/grid_sample_gradfix.py": (
        "import torch\n"
        "class _Once(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(ctx, y):\n"
        "        return y.clone()\n"
        "    @staticmethod\n"
        "    def backward(ctx, dy):\n"
        "        if torch.is_grad_enabled():\n"
        "            raise RuntimeError('not twice')\n"
        "        return dy.clone()\n"
        "def grid_sample(x, grid):\n"
        "    return _Once.apply(torch.nn.functional.grid_sample(x, grid, align_corners=False))\n"
    ),
}


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_all_operators_run_and_are_saved_with_the_machine(tmp_path: Path) -> None:
    done = _run("--out", tmp_path / "new" / "ops.json")
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "new" / "ops.json").read_text())
    assert saved["machine"]["cpu"]
    assert saved["copy_bandwidth"] > 1e8
    assert len({row["operator"] for row in saved["rows"]}) == 11
    assert {row["mode"] for row in saved["rows"]} == {"forward", "backward", "double"}
    for row in saved["rows"]:
        assert row["seconds"]["ours"] > 0
        assert list(row["ratio"]) == ["ref"]
        assert (row["bytes_per_second"] is not None) == (row["mode"] == "forward")
    assert "upfirdn2d 12 up 2" in done.stdout


@pytest.mark.slow
def test_beside_a_checkout(tmp_path: Path) -> None:
    for name, text in CHECKOUT.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    out = tmp_path / "ops.json"
    done = _run(
        "--reference", tmp_path / "checkout", "--operator", "bias_act lrelu", "--operator", "grid_sample", "--out", out
    )
    assert done.returncode == 0, done.stderr
    for row in json.loads(out.read_text())["rows"]:
        possible = (row["operator"], row["mode"]) != ("grid_sample", "double")
        assert ("reference" in row["ratio"]) == possible
        assert ("reference" in row["failed"]) != possible


@pytest.mark.slow
def test_a_checkout_without_its_kernels_is_told(tmp_path: Path) -> None:
    """It says by itself only that it warns, and warnings of other releases of PyTorch are silenced."""
    kernels = "_inited, _plugin = True, None\n"
    for name, text in (CHECKOUT | {"torch_utils/ops/upfirdn2d.py": kernels}).items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    out = tmp_path / "ops.json"
    done = _run("--reference", tmp_path / "checkout", "--operator", "bias_act lrelu", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "the reference runs without its CUDA kernels of upfirdn2d, which could not be built" in done.stdout
    assert json.loads(out.read_text())["reference_without"] == ["upfirdn2d"]


@pytest.mark.slow
def test_a_folder_that_is_no_checkout(tmp_path: Path) -> None:
    done = _run("--reference", tmp_path)
    assert done.returncode == 1
    assert "no stylegan2-ada-pytorch checkout" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_operator_that_fails_or_differs_is_noted_and_the_others_are_timed(tmp_path: Path) -> None:
    broken = CHECKOUT["torch_utils/ops/bias_act.py"].replace(
        "    y =", "    if clamp: raise RuntimeError('no clamp here')\n    y = 2 *"
    )
    for name, text in (CHECKOUT | {"torch_utils/ops/bias_act.py": broken}).items():
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).write_text(text)
    words = ["--operator", "bias_act lrelu", "--operator", "bias_act lrelu clamp", "--operator", "grid_sample"]
    done = _run(*words, "--reference", tmp_path / "checkout", "--layout", "contiguous", "--out", tmp_path / "ops.json")
    assert done.returncode == 1
    assert "bias_act lrelu: reference differs from ours by" in done.stderr
    saved = json.loads((tmp_path / "ops.json").read_text())["rows"]
    rows = {(row["operator"], row["mode"]): row for row in saved}
    assert "differs" in rows["bias_act lrelu", "forward"]["failed"]["reference"]
    assert rows["bias_act lrelu clamp", "forward"]["failed"] == {"reference": "no clamp here"}
    assert rows["grid_sample", "forward"]["ratio"]["reference"] > 0
