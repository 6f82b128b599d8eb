"""`doctor`: what the operators run on, and whether they compute what they should."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stylegan2_msp.errors import UserError

if TYPE_CHECKING:
    from torch_utils_ext.doctor import Check

_PLAIN_WIDTH = 120
_LEAST_WIDTH = 80  # the tests' table fits; on narrower terminals lines go on below, where rich would leave out the end
_NAME_WIDTH = 16


@click.command()
def doctor() -> None:
    """Show what the operators run on, test each of them, and measure this machine's limits.

    Takes a few seconds. The exit code is 1 if an operator disagrees with its slow reference.
    """
    import torch

    from torch_utils_ext.doctor import findings, implementation, limits, operators, self_test

    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_WIDTH)
    elif console.width < _LEAST_WIDTH:
        console = Console(width=_LEAST_WIDTH)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    with console.status("looking around"):
        found = findings()
    console.print(_pairs(found, "Found"))
    for device in devices:
        with console.status(f"measuring the {device}"):
            measured = limits(device)
        console.print(_pairs(measured, f"Limits of the {device}, measured now"))
        chosen = {name: ", ".join(implementation(name, device)) for name in operators()}
        console.print(_pairs(chosen, f"What the operators run on the {device}"))
    tests = _tests()
    failed = []
    for device in devices:
        with console.status(f"testing the operators on the {device}"):
            for check in self_test(device):
                tests.add_row(*_row(check))
                failed += [] if check.passed else [f"{check.operator} on {check.device}"]
    console.print(tests)
    if failed:
        names = ", ".join(dict.fromkeys(failed))
        raise UserError(f"self-test failed: {names} (see the table); please report it with all of the above")
    console.print("Every operator agrees with its reference.", style="green")


def _pairs(values: dict[str, str], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(style="cyan", no_wrap=True, min_width=_NAME_WIDTH)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, Text(value))
    return table


def _tests() -> Table:
    title = "Largest errors against the slow references"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False, collapse_padding=True
    )
    for name in ("operator", "on", "dtype"):
        table.add_column(name, style="cyan" if name == "operator" else "", no_wrap=True)
    for name in ("value", "1st grad", "2nd grad", "allowed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold", min_width=len("FAILED"))
    return table


def _row(check: Check) -> list[str | Text]:
    from torch_utils_ext.doctor import TOLERANCE

    dtype = str(check.dtype).removeprefix("torch.")
    errors = [f"{error:.1e}" for error in check.errors] if check.errors else ["-"] * 3
    verdict = Text("ok", "green") if check.passed else Text(f"FAILED {check.problem}".rstrip(), "bold red")
    return [check.operator, check.device, dtype, *errors, f"{TOLERANCE[check.dtype]:.0e}", verdict]
