"""The table of figures is the same in memory, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from stylegan2_msp.errors import UserError
from stylegan2_msp.metrics.results import Results


@pytest.fixture
def results():
    found = Results({"seed": 3})
    found.add("mae", 0.25, (0.2, 0.3), count=10, on="uniform")
    found.add("mae", 0.5, count=5, on="uniform", level=0.30000001, cls=None)
    found.add("mae", math.nan, count=0, of="reals", on="natural", cls=7)
    return found


def test_figures_are_found_by_what_they_are_of(results):
    assert results.value("mae", "uniform") == 0.25
    assert results.value("mae", "uniform", level=0.3) == 0.5
    assert results.find("mae", "natural") is None
    assert math.isnan(results.value("rmse", "uniform"))
    assert [row.count for row in results.levels("mae", "uniform")] == [5]
    assert (results.find("mae", "uniform").low, results.find("mae", "uniform").high) == (0.2, 0.3)


def test_json_comes_back_whole_and_is_json_for_everybody(results, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(results.to_json())
    plain = json.loads(results.to_json(), parse_constant=pytest.fail)
    assert plain["figures"][2]["value"] is None
    again = Results.read(path)
    assert again.about == {"seed": 3}
    assert again.to_json() == results.to_json()
    assert math.isnan(again.rows[2].value)


def test_csv_has_one_row_per_figure(results):
    rows = list(csv.DictReader(io.StringIO(results.to_csv())))
    assert [r["value"] for r in rows] == ["0.25", "0.5", ""]
    assert [(r["level"], r["cls"]) for r in rows] == [("", ""), ("0.3", ""), ("", "7")]
    assert [r["of"] for r in rows] == ["fakes", "fakes", "reals"]


@pytest.mark.parametrize("text", ["", "[]", '{"about": {}}', '{"about": {}, "figures": [{"figure": "mae"}]}', "\x00"])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UserError, match=r"r\.json: is not"):
        Results.read(tmp_path / "r.json")
    with pytest.raises(UserError, match="cannot be read"):
        Results.read(tmp_path / "none.json")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_files_hold_no_number_that_json_has_not(tmp_path, value):
    results = Results()
    results.add("cost", value, (value, value), count=3, on="uniform")
    text = results.to_json()
    (row,) = json.loads(text, parse_constant=lambda name: pytest.fail(name))["figures"]
    assert row["value"] is row["low"] is row["high"] is None
    (tmp_path / "results.json").write_text(text)
    assert math.isnan(Results.read(tmp_path / "results.json").value("cost", "uniform"))
