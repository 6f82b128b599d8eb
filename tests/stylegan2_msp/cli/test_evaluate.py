"""`evaluate` from the command line: what it writes, what a second call reuses, and how it refuses."""

from __future__ import annotations

import csv
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stylegan2_msp.cli import run
from stylegan2_msp.cli.evaluate import evaluate
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.snapshot import save_snapshot

pytest.importorskip("torchmetrics")
SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "calc_metrics.py"
ALWAYS = {"results.json", "results.csv", "results.md", "calibration.png", "levels.png", "per_class.png", "quality.png"}
ALWAYS |= {"fig4_in_out.png", "fig4_natural.png", "fig2b_levels.png"}


@pytest.fixture
def cli(monkeypatch, tmp_path, capsys):
    """Calls the command in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, args)])
        code = 0
        try:
            run(evaluate)
        except SystemExit as error:
            code = error.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.mark.slow
def test_a_process_writes_tables_and_figures_and_a_second_one_trains_no_judge(tmp_path, grey_snapshot, digits_archive):
    data = tmp_path / "digits.zip"
    shutil.copy(digits_archive, data)
    command = [sys.executable, str(SCRIPT), "--network", str(grey_snapshot), "--data", str(data), "--images", "160"]
    done = subprocess.run(
        [*command, "--outdir", "first"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert "training the second classifier" in done.stdout
    assert "no --baseline" in done.stderr
    assert {p.name for p in (tmp_path / "first").iterdir()} == ALWAYS
    results = Results.read(tmp_path / "first" / "results.json")
    assert results.about["second"]["architecture"] == "residual"
    assert results.value("fid", "natural") > 0
    with open(tmp_path / "first" / "results.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(results.rows)
    text = (tmp_path / "first" / "results.md").read_text(encoding="utf-8")
    assert text in done.stdout
    assert "| condition shuffled |" in text
    assert "rejection |" not in text
    again = subprocess.run(
        [*command, "--outdir", "second"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert "training the" not in again.stdout
    repeated = Results.read(tmp_path / "second" / "results.json")
    assert [row.figure for row in repeated.rows] == [row.figure for row in results.rows]
    for name in ("value", "low", "high"):
        columns = [[getattr(row, name) for row in found.rows] for found in (repeated, results)]
        np.testing.assert_allclose(*columns, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.slow
def test_points_have_an_energy_ratio_and_a_class_only_network_is_a_baseline(
    cli, points_snapshot, moons_archive, tmp_path
):
    from stylegan2_msp.networks import build_network

    other = tmp_path / "class.safetensors"
    info = {"kind": "points", "num_classes": 2, "class_names": ["upper", "lower"], "condition": "class", "kimg": 1}
    save_snapshot(other, build_network("PointGenerator", {"z_dim": 8, "c_dim": 2}), None, info)
    data = tmp_path / "moons.zip"
    shutil.copy(moons_archive, data)
    code, out, err = cli(
        "--network", points_snapshot, "--data", data, "--outdir", "o", "--images", "160", "--baseline", other
    )
    assert code == 0, err
    assert "levels were searched" not in out
    assert "energy distance over that of two real samples" in out
    assert "class only, rejection" in out
    assert "Quality is measured on the coordinates: comparable on the same data only." in out
    assert "no --baseline" not in err
    results = Results.read(tmp_path / "o" / "results.json")
    assert results.value("energy_ratio", "natural") > 1
    assert results.find("energy_ratio", "natural", cls=1) is not None
    assert results.about["baseline"] == "class.safetensors"
    assert {p.name for p in (tmp_path / "o").iterdir()} == {*ALWAYS, "fig2a_points.png"}
    code, out, err = cli(
        "--network", points_snapshot, "--data", data, "--outdir", "s", "--images", "160", "--within", "0.02"
    )
    assert code == 0, err
    assert "levels were searched until the answer was within 0.02" in out
    searched = Results.read(tmp_path / "s" / "results.json")
    assert searched.value("mae", "uniform") < results.value("mae", "uniform")
    code, out, err = cli(
        *("--network", points_snapshot, "--data", data, "--outdir", "d", "--images", "160"),
        *("--draws", "5", "--trunc", "0.9"),
    )
    assert code == 0, err
    assert "up to 5 latents were drawn until the answer was within 0.05" in out
    assert "Truncation psi 0.9." in out
    drawn = Results.read(tmp_path / "d" / "results.json")
    assert drawn.value("mae", "uniform") < results.value("mae", "uniform")
    assert drawn.find("monotonicity", "uniform") is None  # no latent is shared
    assert drawn.value("cost", "uniform") >= 1
    assert re.search(r"this network \|.*\| \d+\.\d \(\d+% accepted\)", out)
    steady = ("--outdir", "e", "--within", "0.02", "--draws", "5", "--steady")
    code, _, err = cli("--network", points_snapshot, "--data", data, *steady)
    assert (code, err) == (1, "error: --steady: 2-D points cannot be shifted; leave it out\n")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--images", "5"], 2, "--images"),
        (["--draws", "0"], 2, "--draws"),
        (["--trunc", "inf"], 2, "--trunc"),
        (["--features", "vgg"], 2, "--features"),
        (["--data", "none.zip"], 1, "none.zip"),
        (["--network", "none.safetensors"], 1, "none.safetensors"),
        (["--device", "toaster"], 1, "--device"),
        (["--baseline", "none.safetensors"], 1, "none.safetensors"),
        (["--baseline", "SAME"], 1, "conditioned on the class alone"),
        (["--baseline", "MOONS"], 1, "of the same data"),
        (["--data", "POINTS"], 1, "points of 2 classes"),
        (["--network", "CLASS"], 1, "without MSP"),
        (["--network", "RGB"], 1, "of 10 classes"),
        (["--outdir", "taken/out"], 1, "taken"),
        (["--features", "inception"], 1, "torch-fidelity"),
    ],
)
def test_bad_requests_write_nothing(
    cli, tmp_path, grey_snapshot, rgb_snapshot, points_snapshot, digits_archive, moons_archive, class_only, grey,
    tmp_path_factory, args, code, says,
):  # fmt: skip
    from stylegan2_msp.networks import build_network

    if "inception" in args and importlib.util.find_spec("torch_fidelity"):
        pytest.skip("torch-fidelity is installed")
    made = tmp_path_factory.mktemp("made")
    save_snapshot(made / "class.safetensors", class_only.G, grey.classifier.to_bytes(), class_only.snapshot.info)
    info = {"kind": "points", "num_classes": 2, "class_names": None, "condition": "class", "kimg": 1}
    save_snapshot(made / "moons.safetensors", build_network("PointGenerator", {"z_dim": 8, "c_dim": 2}), None, info)
    (tmp_path / "taken").write_text("a file, not a folder")
    known = {
        "SAME": grey_snapshot,
        "POINTS": moons_archive,
        "CLASS": made / "class.safetensors",
        "MOONS": made / "moons.safetensors",
        "RGB": rgb_snapshot,
    }
    given = {"--network": grey_snapshot, "--data": digits_archive, "--images": 80}
    given |= dict(zip(args[::2], (known.get(value, value) for value in args[1::2]), strict=True))
    got, _, err = cli(*[word for pair in given.items() for word in pair])
    assert got == code, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
