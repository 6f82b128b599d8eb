"""`stylegan2-msp doctor` as a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]


def _process(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


@pytest.mark.slow
def test_a_sound_machine() -> None:
    done = _process("-m", "stylegan2_msp", "doctor")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for word in (
        torch.__version__,
        "copy bandwidth",
        "matrix product",
        "modulated_conv2d",
        "agrees with its reference",
    ):
        assert word in done.stdout
    assert "FAILED" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.slow
def test_a_wrong_operator_is_exit_code_1_and_one_line() -> None:
    program = (
        "import torch_utils_ext.doctor as doctor\n"
        "right = doctor.upfirdn2d\n"
        "doctor.upfirdn2d = lambda *args, impl, **how: right(*args, impl=impl, **how) * (1 if impl == 'ref' else 1.1)\n"
        "doctor.limits = lambda device: {}\n"
        "from stylegan2_msp.cli import run\n"
        "from stylegan2_msp.cli.doctor import doctor as command\n"
        "import sys\n"
        "sys.argv = ['doctor']\n"
        "run(command)\n"
    )
    done = _process("-c", program)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: self-test failed: upfirdn2d on cpu")
