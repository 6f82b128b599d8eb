"""Lists and ranges on the command line."""

from __future__ import annotations

import click
import pytest

from stylegan2_msp.cli.lists import parse_classes, parse_levels, parse_seeds

DIGITS = [str(k) for k in range(10)]
ANIMALS = ["cat", "dog", "t-shirt", "red, green"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0-3", [0, 1, 2, 3]), ("1,3,5-7", [1, 3, 5, 6, 7]), ("7", [7]), ("5, 2,5", [5, 2]), ("4-4", [4])],
)
def test_seeds(text, wanted):
    assert parse_seeds(text) == wanted


@pytest.mark.parametrize("text", ["", "1,", "a", "3-1", "-1", "1.5", "0-99999999999", "1--3"])
def test_bad_seeds(text):
    with pytest.raises(click.BadParameter, match="--seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0.7", [0.7]),
        ("1.0,0.7", [1.0, 0.7]),
        ("0.3:1.0:8", [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("1:0.5:2,0.7", [1.0, 0.5, 0.7]),
        ("0.7,.70", [0.7]),
    ],
)
def test_msp(text, wanted):
    assert parse_levels(text, "--msp") == wanted


@pytest.mark.parametrize(
    "text", ["", "0", "-0.5", "1.01", "nan", "inf", "high", "0.7,nan", "0.3:1.0", "0.3:1.0:1", "0:1:5", "0.3:1:2.5"]
)
def test_bad_msp(text):
    with pytest.raises(click.BadParameter, match="--msp"):
        parse_levels(text, "--msp")


@pytest.mark.parametrize(
    ("text", "names", "wanted"),
    [
        ("3", DIGITS, [3]),
        ("3,5", DIGITS, [3, 5]),
        ("0-9", DIGITS, list(range(10))),
        ("0:4", DIGITS, [0, 1, 2, 3, 4]),
        ("0:8:3", DIGITS, [0, 4, 8]),
        ("dog,Cat", ANIMALS, [1, 0]),
        ("t-shirt", ANIMALS, [2]),
        ("red, green", ANIMALS, [3]),
        ("1", ["9", "8"], [1]),
        ("12", DIGITS, [12]),
    ],
)
def test_classes(text, names, wanted):
    assert parse_classes(text, names) == wanted


@pytest.mark.parametrize("text", ["", "horse", "1.5", "5-3", "0:9:5", "0:x:2", "3,,4"])
def test_bad_classes(text):
    with pytest.raises(click.BadParameter, match="--class"):
        parse_classes(text, DIGITS)


def test_names_that_differ_in_capitals_only():
    letters = ["A", "B", "a", "b", "c"]
    assert parse_classes("A,b", letters) == [0, 3]
    assert parse_classes("C", letters) == [4]
    with pytest.raises(click.BadParameter, match="--class AB: may be Ab or aB; write it as it is"):
        parse_classes("AB", ["Ab", "aB"])


def test_accents_may_be_stored_apart():
    """As the Finder of macOS stores names of folders; keyboards give one sign."""
    assert parse_classes("gr\u00fcn", ["Rot", "Gru\u0308n"]) == parse_classes("Gru\u0308n", ["Rot", "Gr\u00fcn"]) == [1]


def test_numbers_without_end_are_refused():
    for parse in (parse_seeds, lambda text: parse_classes(text, DIGITS)):
        with pytest.raises(click.BadParameter):
            parse("9" * 5000)
