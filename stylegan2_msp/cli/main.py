"""The `stylegan2-msp` program: one command per job."""

from __future__ import annotations

import importlib

import click

from stylegan2_msp import __version__
from stylegan2_msp.cli import run

_COMMANDS = {
    "dataset": "Make and annotate data sets.",
    "train": "Train a generator on an archive.",
    "generate": "Generate images at a chosen MSP.",
    "evaluate": "Measure a network: match, quality, baselines.",
    "report": "Figures and tables of a finished run.",
    "reproduce": "An experiment from nothing to its table.",
    "import": "Read a network of the StyleGAN2-ADA family.",
    "export": "Write a network for that family, ONNX or torch.export.",
    "patch": "Bring the condition into a stylegan2-ada-pytorch checkout.",
    "doctor": "What the operators run on, tested and measured.",
}
_NAMED_OTHERWISE = {"import": "import_network"}  # a module cannot be called import


class _Lazy(click.Group):
    """Imports a command's module only when that command is used, so that --help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = _NAMED_OTHERWISE.get(name, name)
        return getattr(importlib.import_module(f"stylegan2_msp.cli.{module}"), module)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy)
@click.version_option(__version__)
def main() -> None:
    """See what an image classifier finds hard: StyleGAN2-ADA conditioned on class and classifier confidence (MSP)."""


def entry() -> None:
    """Entry point of the console script."""
    run(main)
