"""What the scripts need of a machine before anything of ours runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Stands for Python: its venv puts programs where the test says, and pip only tells what it was asked.
PYTHON = """#!/bin/sh
case "$*" in
    "-m venv .venv") mkdir -p ".venv/$PROGRAMS"; cp "$0" ".venv/$PROGRAMS/python" ;;
    "-m pip"*) echo "$@" >>asked ;;
esac
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("programs", ["bin", "Scripts"])
def test_the_environment_is_made_where_this_system_has_its_programs(tmp_path: Path, programs: str) -> None:
    """Scripts is Windows' (Git Bash)."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/environment.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    fake = tmp_path / "fake"
    fake.write_text(PYTHON, encoding="utf-8")
    fake.chmod(0o755)
    place = {**os.environ, "PYTHON": str(fake), "PROGRAMS": programs, "STYLEGAN2_MSP_TORCH": "torch==2.11.0"}
    words = ["bash", "-c", "set -eu; source scripts/environment.sh dev; command -v python"]
    for _ in range(2):  # the second time all is there
        done = subprocess.run(words, cwd=tmp_path, env=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(tmp_path / ".venv" / programs / "python")
    assert len((tmp_path / "asked").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(("given", "taken"), [("out", "$PWD/out"), ("C:/out", "C:/out")])
def test_the_demo_takes_a_folder_with_a_drive(tmp_path: Path, given: str, taken: str) -> None:
    """In Git Bash of Windows; it became one below the current folder."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/demo.sh", tmp_path / "scripts")
    stub = 'python() { echo "$@" >>asked; }\n'
    (tmp_path / "scripts/environment.sh").write_text(stub, encoding="utf-8")
    subprocess.run(["bash", "scripts/demo.sh", given], cwd=tmp_path, capture_output=True, check=False)
    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert asked[0].endswith(f" --dest {taken}/moons.zip".replace("$PWD", str(tmp_path)))


def test_text_has_no_carriage_returns_where_git_would_write_them() -> None:
    """bash and `git apply` stumble over them; core.autocrlf is what Git for Windows sets."""
    words = ["git", "-C", str(ROOT), "check-attr", "eol", "scripts/demo.sh", "patches/0001-hook.patch"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git checkout")
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["lf", "lf"]


def test_slow_tests_come_last_and_only_while_there_is_time(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_some.py").write_text(
        "import pytest\n@pytest.mark.slow\ndef test_slow(): pass\ndef test_quick(): pass\n"
    )
    for options, order in (
        ([], ["slow PASSED", "quick PASSED"]),
        (["--slow-for", "5"], ["quick PASSED", "slow PASSED"]),
        (["--slow-for", "0"], ["quick PASSED", "slow SKIPPED"]),
    ):
        words = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-o", "markers=slow", *options]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found = [f"{name} {said}" for name, said in re.findall(r"::test_(\w+) ([A-Z]+)", done.stdout)]
        assert found == order
