"""`generate` from the command line: what it writes, and how it refuses."""

from __future__ import annotations

import csv
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stylegan2_msp.agreement import real_agreement
from stylegan2_msp.generation import load_generator
from stylegan2_msp.snapshot import load_snapshot, save_snapshot

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "generate.py"


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "generated.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def as_float(path: Path) -> torch.Tensor:
    """A PNG as the classifier sees it, [1, C, H, W]."""
    array = np.asarray(Image.open(path))
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(array.copy())[None].float() / 127.5 - 1


def test_the_command_of_the_readme_as_a_process(tmp_path, grey_snapshot):
    for name in ("00000-old", "00001-new"):
        (tmp_path / "training-runs" / name).mkdir(parents=True)
        target = tmp_path / "training-runs" / name / grey_snapshot.name
        target.write_bytes(grey_snapshot.read_bytes())
    command = [sys.executable, str(SCRIPT), "--msp", "0.7", "--seeds", "0-15", "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert f"network training-runs/00001-new/{grey_snapshot.name}" in done.stdout
    assert done.stderr == ""
    rows = table(tmp_path / "out")
    assert [(int(r["seed"]), int(r["class"]), r["msp_in"]) for r in rows] == [(s, s % 10, "0.7") for s in range(16)]
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {r["file"] for r in rows} | {"grid.png", "generated.csv"}
    assert rows[13]["file"] == "class3-msp0.70-seed0013.png"


def test_files_hold_what_sample_gives_and_the_table_what_the_classifier_says_of_them(
    generate_cli, grey, grey_snapshot, tmp_path
):
    code, _, _ = generate_cli(
        "--network", grey_snapshot, "--msp", "1.0,0.7", "--seeds", "4,2", "--class", "3,5", "--outdir", "o"
    )
    assert code == 0
    rows = table(tmp_path / "o")
    asked = {(int(r["class"]), int(r["seed"]), float(r["msp_in"])) for r in rows}
    assert asked == {(k, s, u) for k in (3, 5) for s in (4, 2) for u in (1.0, 0.7)}
    for row in rows:
        picture = as_float(tmp_path / "o" / row["file"])
        image = grey.sample(int(row["class"]), float(row["msp_in"]), [int(row["seed"])])
        assert (picture - image).abs().max() < 1.01 / 127.5
        prediction, msp = grey.classifier.predict(picture)
        assert int(row["prediction"]) == int(prediction)
        assert float(row["msp_out"]) == pytest.approx(float(msp), abs=1e-4)


def test_rgb_names_range_and_grid_elsewhere(generate_cli, rgb_snapshot, tmp_path):
    code, _, _ = generate_cli(
        "--network", rgb_snapshot, "--msp", "0.5:1.0:3", "--class", "dog", "--seeds", "7", "--grid", "g/x.pdf"
    )
    assert code == 0
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert [p.name for p in pictures] == [f"class1-msp{u}-seed0007.png" for u in ("0.50", "0.75", "1.00")]
    assert as_float(pictures[0]).shape == (1, 3, 16, 16)
    generator = load_generator(rgb_snapshot, "cpu")
    assert (as_float(pictures[1]) - generator.sample(1, 0.75, [7])).abs().max() < 1.01 / 127.5
    assert (tmp_path / "g" / "x.pdf").read_bytes()[:4] == b"%PDF"


def test_within_writes_what_the_classifier_says_nearer_to_what_was_asked(generate_cli, grey, grey_snapshot, tmp_path):
    def gaps(outdir: str, *more: str) -> np.ndarray:
        args = (
            "--network",
            grey_snapshot,
            "--msp",
            "0.4",
            "--seeds",
            "0-15",
            "--grid",
            "off",
            "--outdir",
            outdir,
            *more,
        )
        code, out, err = generate_cli(*args)
        assert (code, err) == (0, "")
        found = np.array([abs(float(row["msp_out"]) - 0.4) for row in table(tmp_path / outdir)])
        assert f"the classifier's answers are {found.mean():.3f} from the levels asked for" in out
        said = "levels searched until within 0.01" if more[1] != "off" else "without '--within off' they come nearer"
        assert said in out
        return found

    plain, searched = gaps("plain", "--within", "off"), gaps("searched", "--within", "0.01")
    assert plain.mean() > 0.05
    assert (searched <= plain + 1e-4).all()
    assert searched.mean() < plain.mean()
    assert list(table(tmp_path / "plain")[0])[-1] == "class_name"
    assert [r["class_name"] for r in table(tmp_path / "plain")] == [str(s % 10) for s in range(16)]
    for row in table(tmp_path / "searched"):
        assert list(row)[-2:] == ["class_name", "msp_given"]
        image = grey.sample(int(row["class"]), float(row["msp_given"]), [int(row["seed"])], within=None)
        assert (as_float(tmp_path / "searched" / row["file"]) - image).abs().max() < 1.01 / 127.5


def test_draws_writes_what_the_classifier_says_nearer_to_what_was_asked(generate_cli, grey_snapshot, tmp_path):
    args = ("--network", grey_snapshot, "--msp", "0.4", "--class", "3", "--noise-mode", "random")
    for outdir, more in (("plain", ("--within", "off")), ("drawn", ("--within", "0.01", "--draws", "8"))):
        code, _, err = generate_cli(*args, "--seeds", "0-15", "--outdir", outdir, *more)
        assert (code, err) == (0, "")
        assert (tmp_path / outdir / "grid.png").is_file()
    drawn, plain = (
        np.array([abs(float(row["msp_out"]) - 0.4) for row in table(tmp_path / d)]) for d in ("drawn", "plain")
    )
    assert (drawn <= plain).all()
    assert drawn.mean() < plain.mean()
    generate_cli(
        *args, "--seeds", "9,4", "--outdir", "again", "--within", "0.01", "--draws", "8"
    )  # company is no matter
    for row in table(tmp_path / "again"):
        assert (tmp_path / "again" / row["file"]).read_bytes() == (tmp_path / "drawn" / row["file"]).read_bytes()


def test_steady_draws_keep_their_level_when_the_picture_is_shifted(generate_cli, grey_snapshot, tmp_path):
    args = ("--network", grey_snapshot, "--msp", "0.4", "--class", "3", "--seeds", "0-15")
    classifier, classes = load_generator(grey_snapshot, "cpu").classifier, torch.full((16,), 3)
    worse = {}
    for outdir, more in (("drawn", ()), ("steady", ("--steady",))):
        code, _, err = generate_cli(*args, "--outdir", outdir, "--within", "0.04", "--draws", "12", *more)
        assert code == 0, err
        x = torch.cat([as_float(tmp_path / outdir / row["file"]) for row in table(tmp_path / outdir)])
        off = torch.stack([classifier.answer(x, classes)[1], classifier.steady_level(x, classes)]) - 0.4
        worse[outdir] = off.abs().amax(dim=0)
    assert (worse["steady"] <= 0.04 + 1e-6).sum() > (worse["drawn"] <= 0.04).sum()
    assert worse["steady"].mean() < worse["drawn"].mean()


def test_pictures_of_earlier_calls_are_counted(generate_cli, grey_snapshot, tmp_path):
    said = [
        generate_cli("--network", grey_snapshot, "--msp", "0.7", "--seeds", seeds)[1] for seeds in ("0-2", "0-3", "2")
    ]
    assert ["also holds" in text for text in said] == [False, False, True]
    assert "out also holds 3 images of earlier calls, which generated.csv does not list" in said[2]


def test_no_grid(generate_cli, grey_snapshot, tmp_path):
    assert generate_cli("--network", grey_snapshot, "--seeds", "1", "--grid", "off")[0] == 0
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".png", ".csv"}
    assert not (tmp_path / "out" / "grid.png").exists()
    assert [r["msp_in"] for r in table(tmp_path / "out")] == ["1", "0.7"]


def test_points_give_a_table_and_a_scatter(generate_cli, points_snapshot, tmp_path):
    assert generate_cli("--network", points_snapshot, "--msp", "0.6", "--seeds", "0-9")[0] == 0
    rows = table(tmp_path / "out")
    points = load_generator(points_snapshot, "cpu").sample(msp=0.6, seeds=list(range(10)))
    assert [float(r["x"]) for r in rows] == pytest.approx(points[:, 0].tolist(), abs=1e-4)
    assert [float(r["y"]) for r in rows] == pytest.approx(points[:, 1].tolist(), abs=1e-4)
    code, _, err = generate_cli("--network", points_snapshot, "--within", "0.05", "--draws", "9", "--steady")
    assert (code, err) == (1, "error: --steady: 2-D points cannot be shifted; leave it out\n")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"generated.csv", "grid.png"}


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--msp", "1.5"], 2, "--msp"),
        (["--msp", "0"], 2, "--msp"),
        (["--msp", "nan"], 2, "--msp"),
        (["--msp", "high"], 2, "--msp"),
        (["--msp", "0.05"], 1, "at least 0.1"),
        (["--class", "12"], 1, "classes 0 to 9"),
        (["--class", "cat"], 2, "neither a number"),
        (["--seeds", "4294967296"], 1, "--seeds"),
        (["--trunc", "nan"], 2, "--trunc"),
        (["--within", "-1"], 2, "--within"),
        (["--within", "near"], 2, "--within"),
        (["--within", "off", "--draws", "8"], 1, "leave '--within off' out"),
        (["--within", "0.1", "--draws", "0"], 2, "--draws"),
        (["--within", "0.1", "--steady"], 1, "add --draws 40"),
        (["--grid", "grid.gif"], 2, "--grid"),
        (["--device", "toaster"], 1, "--device"),
        (["--noise-mode", "loud"], 2, "noise-mode"),
        (["--outdir", "taken/out"], 1, "taken/out"),
        (["--grid", "taken/grid.png"], 1, "taken"),
    ],
)
def test_bad_requests_write_nothing(generate_cli, grey_snapshot, tmp_path, args, code, says):
    (tmp_path / "taken").write_text("a file, not a folder")
    got, _, err = generate_cli("--network", grey_snapshot, *args)
    assert got == code
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def broken(kind: str, good: bytes, path: Path) -> None:
    if kind == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif kind == "cut in the header":
        path.write_bytes(good[:20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"G_ema": "evil"}))
    elif kind == "torch.save":
        torch.save({"a": torch.zeros(1)}, path)
    elif kind == "other format":
        save_file({"a": torch.zeros(2)}, str(path), metadata={"format": "pt"})
    elif kind == "text":
        path.write_text("not a snapshot at all\n" * 5)


@pytest.mark.parametrize(
    "kind", ["truncated", "cut in the header", "empty", "pickle", "torch.save", "other format", "text", "missing"]
)
def test_bad_snapshots(generate_cli, grey_snapshot, tmp_path, kind):
    path = tmp_path / "network-snapshot-000001.safetensors"
    broken(kind, grey_snapshot.read_bytes(), path)
    before = sorted(p.name for p in tmp_path.iterdir())
    code, _, err = generate_cli("--network", path, "--msp", "0.7")
    assert code == 1
    assert err.startswith(f"error: {path}: ")
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_no_run_yet(generate_cli, tmp_path):
    code, _, err = generate_cli("--msp", "0.7")
    assert code == 1
    assert err.startswith("error: training-runs: ")
    assert not list(tmp_path.iterdir())


def test_the_main_program_knows_both_commands():
    code = "from stylegan2_msp.cli.main import entry; entry()"
    for name, option in (("generate", "--msp"), ("report", "--run")):
        done = subprocess.run(
            [sys.executable, "-c", code, name, "--help"], capture_output=True, text=True, timeout=60, check=True
        )
        assert option in done.stdout


def test_what_a_search_does_not_reach_is_said(generate_cli, grey_snapshot, tmp_path):
    words = ("--network", grey_snapshot, "--msp", "0.7", "--seeds", "0-3", "--outdir", "o")
    code, out, _ = generate_cli(*words, "--within", "0.0000001", "--draws", "2")
    assert code == 0
    assert "4 of 4 images are not what was searched for, but the nearest that was found (more than 2 --draws" in out
    code, out, _ = generate_cli(*words, "--within", "1")
    assert code == 0
    assert "not what was searched for" not in out
    assert generate_cli(*words, "--within", "nan")[0] == 2


def test_levels_of_which_the_data_hold_nothing_are_named(generate_cli, grey_snapshot, tmp_path):
    labels = torch.cat([torch.eye(10)[:5], torch.tensor([[0.11], [0.12], [0.26], [0.97], [1.0]])], dim=1)
    agreement = real_agreement(labels, torch.ones(5, dtype=torch.bool), 10)
    path = tmp_path / "network-snapshot-000001.safetensors"
    plain = load_snapshot(grey_snapshot)
    save_snapshot(path, plain.G, plain.classifier.to_bytes(), plain.info | {"agreement": agreement.to_dict()})
    words = ("--network", path, "--seeds", "0", "--outdir", "o")
    code, out, _ = generate_cli(*words, "--msp", "1.0,0.7,0.5,0.3,0.1")
    assert code == 0
    assert "none of the data lie within 0.05 of MSP 0.7, 0.5: what is made for it is guessed" in out
    assert "guessed" not in generate_cli(*words, "--msp", "1.0,0.3")[1]


def test_a_full_gpu_is_one_line(generate_cli, grey_snapshot, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("stylegan2_msp.generation.ConditionalGenerator.batches", full)
    code, _, err = generate_cli("--network", grey_snapshot, "--seeds", "0", "--msp", "0.7")
    assert code == 1
    assert err.splitlines()[-1].startswith(
        "error: the GPU's memory is full; ask for fewer items at once with a smaller"
    )
