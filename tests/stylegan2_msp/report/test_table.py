"""Every column of results.md holds the figure that its heading names: each figure has a value of its own here."""

from __future__ import annotations

from typing import Any

import pytest

from stylegan2_msp.metrics.results import Results
from stylegan2_msp.report.table import markdown_table

LEVELS = (0.5, 1.0)
ABOUT: dict[str, Any] = {
    **{"uncertainty": "MSP", "snapshot": "n.safetensors", "run": "r", "kimg": 1.0, "data": "d.zip"},
    **{"seed": 0, "items": 10, "class_names": ["cat", "dog"]},
}


@pytest.fixture
def results() -> Results:
    found = Results(ABOUT)
    where: list[dict[str, Any]] = [
        {"on": on, "of": of, "level": level, "cls": cls}
        for on in ("natural", "uniform", "matched")
        for of in ("fakes", "reals", "shuffled")
        for level in (None, *LEVELS)
        for cls in (None, 0, 1)
    ]
    names = ("mean", "bias", "mae", "spearman", "class_agreement", "second_mean", "second_spearman", "energy_ratio")
    names += ("fid", "kid", "recall", "share_none", "share_blur", "share_noise", "recorded_none", "recorded_blur")
    for name in names:
        for place in where:
            found.add(name, len(found.rows) / 1000, count=len(found.rows), **place)
    return found


def table(results: Results, column: str) -> list[dict[str, str]]:
    """The rows, by heading, of the table that has such a column."""
    for text in markdown_table(results).split("\n\n"):
        head, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
        if column in head:
            return [dict(zip(head, row, strict=True)) for row in rows[1:]]
    raise AssertionError(column)


def shown(results: Results, figure: str, on: str, digits: int = 3, **where: Any) -> str:
    return f"{results.value(figure, on, **where):.{digits}f}"


def test_levels(results: Results) -> None:
    rows = table(results, "mean out")
    assert [row["in"] for row in rows] == ["0.50", "1.00"]
    for row, level in zip(rows, LEVELS, strict=True):
        for heading, figure, on in (
            ("mean out", "mean", "uniform"),
            ("bias", "bias", "uniform"),
            ("MAE", "mae", "uniform"),
            ("class agreement, every class equally often", "class_agreement", "uniform"),
            ("class agreement, given labels of the level's reals", "class_agreement", "matched"),
            ("second: mean out", "second_mean", "uniform"),
        ):
            assert row[heading] == shown(results, figure, on, level=level), heading
        reals = results.find("class_agreement", "matched", "reals", level)
        assert reals is not None
        assert row["class agreement of the level's reals"] == f"{reals.value:.3f}"
        assert row["number of the level's reals"] == str(reals.count)


def test_without_fakes_of_the_reals_labels_the_reals_count_every_class_equally_too() -> None:
    """Of classes that are not equally frequent reals would agree more, and not be what fakes are to be held to."""
    found = Results(ABOUT)
    for level in LEVELS:
        found.add("mean", level, count=5, on="uniform", level=level)
        for on, value in (("matched", 0.99), ("uniform", 0.79)):
            found.add("class_agreement", value, count=70, of="reals", on=on, level=level)
    for row in table(found, "mean out"):
        assert row["class agreement of the level's reals, every class equally often"] == "0.790"
        assert row["number of the level's reals"] == "70"


def test_share_of_the_reals_that_the_levels_stand_for() -> None:
    found = Results(ABOUT)
    found.add("class_agreement", 0.9, count=200, of="reals", on="natural")
    for level, count in zip(LEVELS, (20, 70), strict=True):
        found.add("mean", level, count=5, on="uniform", level=level)
        found.add("class_agreement", 0.9, count=count, of="reals", on="matched", level=level)
    assert "level, 2 from 0.50 to 1.00, in whose bins 45 % of the real items lie; matched" in markdown_table(found)


def test_baselines_and_classes(results: Results) -> None:
    for row, of in zip(table(results, "natural: MAE"), ("fakes", "shuffled"), strict=True):
        for on in ("uniform", "natural"):
            assert row[f"{on}: MAE"] == shown(results, "mae", on, of=of)
            assert row[f"{on}: Spearman"] == shown(results, "spearman", on, of=of)
        assert row["uniform: class agreement"] == shown(results, "class_agreement", "uniform", of=of)
        assert row["uniform: second's Spearman"] == shown(results, "second_spearman", "uniform", of=of)
    for cls, row in enumerate(table(results, "class, uniform")):
        assert row["class, uniform"] == ABOUT["class_names"][cls]
        for heading, figure, of in (
            ("MAE", "mae", "fakes"),
            ("bias", "bias", "fakes"),
            ("Spearman", "spearman", "fakes"),
            ("class agreement", "class_agreement", "fakes"),
            ("second: Spearman", "second_spearman", "fakes"),
            ("reals: class agreement", "class_agreement", "reals"),
        ):
            assert row[heading] == shown(results, figure, "uniform", of=of, cls=cls), heading
        assert row["energy ratio"] == shown(results, "energy_ratio", "natural", cls=cls)


def test_quality_and_mix_of_corruptions(results: Results) -> None:
    rows = table(results, "FID")
    levels = [
        ("all", "fakes"),
        ("all", "reals"),
        ("0.50", "fakes"),
        ("1.00", "fakes"),
        ("0.50", "reals"),
        ("1.00", "reals"),
    ]
    assert [(row["level"], row["of"]) for row in rows] == levels
    for row in rows:
        where = {"on": "natural"} if row["level"] == "all" else {"on": "matched", "level": float(row["level"])}
        for heading, figure in (("FID", "fid"), ("KID", "kid"), ("recall", "recall")):
            assert row[heading] == shown(results, figure, of=row["of"], **where), heading
    for row, level in zip(table(results, "clean: fakes"), LEVELS, strict=True):
        for name, kind in (("clean", "none"), ("blur", "blur"), ("noise", "noise")):
            for who, of in (("reals", "reals"), ("fakes", "fakes")):
                assert row[f"{name}: {who}"] == shown(results, f"share_{kind}", "matched", 2, of=of, level=level)
        assert row["blur: reals, recorded"] == shown(results, "recorded_blur", "matched", 2, of="reals", level=level)


@pytest.mark.parametrize(
    ("label", "figure"),
    [
        ("mean abs(out - in)", "mae"),
        ("root mean square of out - in", "rmse"),
        ("mean(out - in)", "bias"),
        ("Spearman", "spearman"),
        ("Kendall's tau-b", "kendall"),
        ("concordance (Lin)", "concordance"),
        ("calibration gap, bins of equal width", "gap_equal_width"),
        ("calibration gap, bins of equal mass", "gap_equal_mass"),
        ("share within half a step between levels", "within"),
        ("levels with at least 50% of their items that near", "levels_covered"),
        ("monotonicity at fixed z", "monotonicity"),
        ("class agreement", "class_agreement"),
        ("class agreement, second classifier", "second_class_agreement"),
        ("second classifier: mean abs(out - in)", "second_mae"),
        ("second classifier: Spearman", "second_spearman"),
        ("second classifier: concordance", "second_concordance"),
        ("energy distance over that of two real samples", "energy_ratio"),
    ],
)
def test_each_line_of_the_match_is_of_its_figure_with_its_interval(label: str, figure: str) -> None:
    found = Results(ABOUT)
    for on, value in (("natural", 0.1), ("uniform", 0.4)):
        found.add("class_agreement", value, (value - 0.05, value + 0.2), count=9, on=on)
        if figure != "class_agreement":
            found.add(figure, value, (value - 0.05, value + 0.2), count=9, on=on)
    row = next(row for row in table(found, "natural, fakes") if row[""] == label)
    assert row["natural, fakes"] == "0.100 (0.050 to 0.300)"
    assert row["uniform, fakes"] == "0.400 (0.350 to 0.600)"


def test_what_an_accepted_item_costs_is_of_the_grid() -> None:
    found = Results(ABOUT)
    for of in ("fakes", "shuffled"):
        found.add("mae", 0.1, count=9, of=of, on="uniform")
    for on, cost, accepted in (("natural", 9.0, 0.1), ("uniform", 3.25, 0.8)):
        found.add("cost", cost, count=9, on=on)
        found.add("accepted", accepted, count=9, on=on)
    network, shuffled = table(found, "uniform: made per accepted item")
    assert network["uniform: made per accepted item"] == "3.2 (80% accepted)"
    assert shuffled["uniform: made per accepted item"] == ""


def test_rows_of_fewer_items_say_so() -> None:
    found = Results(ABOUT)
    for of, count in (("fakes", 100), ("searched", 20), ("shuffled", 100)):
        found.add("mae", 0.1, count=count, of=of, on="uniform")
    rows = [row[""] for row in table(found, "uniform: MAE")]
    assert rows == ["this network", "its level searched, as by generate (20 items)", "condition shuffled"]
