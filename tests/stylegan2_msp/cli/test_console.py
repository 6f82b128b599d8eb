"""What a console cannot show ends no command."""

from __future__ import annotations

import os
import subprocess
import sys

SAYS = """
import subprocess, sys, click
from stylegan2_msp.cli import run

@click.command()
def command():
    print("class 猫", flush=True)
    subprocess.run([sys.executable, "-c", "print('worker 猫')"], check=True)

run(command)
"""


def test_names_that_the_console_has_no_letters_for_are_escaped() -> None:
    """cp1252 is what Python takes for a pipe or a file on Windows; it used to end the command, its work done.

    The last is LC_ALL=C where Python's own UTF-8 mode is off.
    """
    for encoding in ("cp1252", "cp1252:strict", "ascii", "ascii:surrogateescape"):
        place = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, env=place, text=True, encoding="ascii")
        assert done.stdout.splitlines() == [r"class \u732b", r"worker \u732b"], done.stderr


GONE = """
import os, sys, time, click
from stylegan2_msp import cli

class Pipe(type(sys.stdout)):
    def flush(self):
        try:
            super().flush()
        except BrokenPipeError:
            raise OSError(22, "Invalid argument") from None

@click.command()
def command():
    print("read no more")
    sys.stdout.flush()

cli.REACHES_ALL = True
sys.stdout = Pipe(sys.stdout.detach())
cli.run(command)
"""


def test_whoever_reads_no_more_ends_a_command_without_a_word_on_windows_too() -> None:
    """`| more` that is left early; Windows says EINVAL where others say EPIPE."""
    read, write = os.pipe()
    os.close(read)
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", GONE], stdout=write, stderr=subprocess.PIPE, env=place, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
