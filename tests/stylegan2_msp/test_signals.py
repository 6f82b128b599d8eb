"""What is left when a command is asked to end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stylegan2_msp.signals import asked_to_end

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signals")

HALF_WRITTEN = """
import signal, sys, time
from pathlib import Path
import click
from stylegan2_msp.cli import run
from stylegan2_msp.files import replacing

@click.command()
def command():
    with replacing(Path("archive.zip")) as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or under nohup
run(command)
"""

STUDY = """
import sys
from stylegan2_msp.cli import run
from stylegan2_msp.study.run import _call
import click

@click.command()
def command():
    _call("train")

sys.executable = sys.argv.pop()
run(command)
"""

TRAIN = """#!/bin/sh
trap 'sleep 1; echo done > saved; exit 130' INT TERM
echo training
while :; do sleep 0.1; done
"""


def started(code: str, folder: Path, *words: str) -> subprocess.Popen[str]:
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=place,
        cwd=folder,
        start_new_session=True,
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_command_that_is_asked_to_end_leaves_nothing_half_written(tmp_path: Path, name: str) -> None:
    signum = getattr(signal, name)
    with started(HALF_WRITTEN, tmp_path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        child.send_signal(signum)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signum, err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to_all", [True, False], ids=["Ctrl-C", "kill"])
def test_reproduce_lets_the_training_that_it_runs_save(tmp_path: Path, to_all: bool) -> None:
    """Before, Ctrl-C killed it a quarter of a second later, and `kill` left it running without its study."""
    train = tmp_path / "train"
    train.write_text(TRAIN)
    train.chmod(0o755)
    with started(STUDY, tmp_path, str(train)) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(2)] == ["$ stylegan2-msp train\n", "training\n"]
        if to_all:
            os.killpg(child.pid, signal.SIGINT)
        else:
            child.terminate()
        _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + (signal.SIGINT if to_all else signal.SIGTERM), err
    assert (tmp_path / "saved").is_file()
    assert "Traceback" not in err


def test_signals_to_all_of_a_job_are_one_request_and_nohup_holds() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt = signal.getsignal(signal.SIGINT)
    asked = []
    try:
        with asked_to_end(lambda signum, _: asked.append(signum)):
            for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(os.getpid(), signum)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert asked == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) is interrupt


def test_ctrl_break_asks_too_where_there_is_such_a_key() -> None:
    """On Windows; SIGBREAK by default ends a process on the spot."""
    code = "import signal; signal.SIGBREAK = signal.SIGUSR1; from stylegan2_msp.signals import asked_to_end, leave\n"
    code += "with asked_to_end(leave):\n    signal.raise_signal(signal.SIGUSR1)"
    with started(code, Path.cwd()) as child:
        _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGUSR1, err


def test_whoever_goes_on_asking_is_heard_again_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    with asked_to_end(lambda signum, _: asked.append(clock)):
        for clock in (0.0, 0.6, 1.2, 1.8, 2.4):  # someone who presses Ctrl-C again and again
            monkeypatch.setattr("stylegan2_msp.signals.time.monotonic", lambda now=clock: now)
            os.kill(os.getpid(), signal.SIGINT)
    assert asked == [0.0, 1.2, 2.4]
