"""`stylegan2-msp doctor` as a real process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from stylegan2_msp.cli.doctor import _row, _tests
from torch_utils_ext.doctor import Check

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
        "products and convolutions",
        "modulated_conv2d",
        "agrees with its reference",
    ):
        assert word in done.stdout
    assert "FAILED" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize("width", [120, 80])
def test_the_table_shows_its_verdicts_in_a_terminal_of_the_usual_width(width: int) -> None:
    """macOS opens terminals of 80 columns; the last column, ok or FAILED, was left out there."""
    table = _tests()
    table.add_row(*_row(Check("modulated_conv2d", "cuda", torch.bfloat16, (1e-7, 1e-7, 1e-7))))
    table.add_row(*_row(Check("upfirdn2d", "cuda", torch.float16, None, "RuntimeError: " + "long " * 20)))
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "modulated_conv2d" in text
    assert "bfloat16" in text
    assert "2nd grad" in text
    assert " ok" in text
    assert "FAILED" in text
    assert "\u2026" not in text


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
