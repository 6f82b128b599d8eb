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
    """cp1252 is what Python takes for a pipe or a file on Windows; it used to end the command, its work done."""
    for encoding in ("cp1252", "cp1252:strict", "ascii"):
        place = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, env=place, text=True, encoding="ascii")
        assert done.stdout.splitlines() == [r"class \u732b", r"worker \u732b"], done.stderr
