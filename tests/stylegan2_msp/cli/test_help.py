"""What --help promises: a default for every option of train, and whole sentences in lists of commands."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from stylegan2_msp.cli.main import main
from stylegan2_msp.cli.train import train
from stylegan2_msp.presets import PRESETS

# What needs no default: it is not wanted, or means itself.
WITHOUT = {"data", "classifier", "classifier_weights", "p", "resume", "dry_run"}


def test_every_option_of_train_tells_its_default() -> None:
    options = [item for item in train.params if isinstance(item, click.Option) and item.name not in WITHOUT]
    assert [o.name for o in options if not o.show_default and "[default: " not in (o.help or "")] == []


@pytest.mark.parametrize(("option", "field"), [("kimg", "kimg"), ("z_dim", "z_dim")])
def test_defaults_by_preset_are_those_of_the_table(option: str, field: str) -> None:
    (text,) = [item.help or "" for item in train.params if isinstance(item, click.Option) and item.name == option]
    told = dict(re.findall(r"(\w+) (\d+)", text[text.index("[default: ") :]))
    for name, preset in PRESETS.items():
        assert float(told.get(name, told["others"])) == getattr(preset, field)


def test_lists_of_commands_are_not_cut() -> None:
    for words in ([], ["dataset"]):
        shown = CliRunner().invoke(main, [*words, "--help"], terminal_width=80).output
        assert "..." not in shown.split("Commands:")[1]
