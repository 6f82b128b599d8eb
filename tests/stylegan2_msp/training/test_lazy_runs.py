"""Whole runs on images that stay in their archive: the same numbers, exact resumption, one decode, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from whole_runs import SMALL, assert_same, final_state, losses, only_run

from stylegan2_msp.data import storage
from stylegan2_msp.data.archive import Archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.training.checkpoint import list_states, load_state
from stylegan2_msp.training.launch import start
from stylegan2_msp.training.plan import Machine

CPU = Machine(device="cpu", workers=2)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory is left, so that images stay in the archive."""
    monkeypatch.setattr(storage, "free_memory", lambda: 0)


@pytest.mark.parametrize("more", [{}, {"flatten": 0.0}, {"vicinal": 0.05}], ids=["flatten", "epochs", "vicinal"])
def test_lazy_and_resident_runs_are_the_same_to_the_bit(digits_archive, tmp_path, monkeypatch, more):
    chosen = {"data": str(digits_archive), **SMALL, "kimg": 0.048, **more}
    assert start(chosen, tmp_path / "resident", None, CPU) == 0
    monkeypatch.setattr(storage, "free_memory", lambda: 0)
    assert start(chosen, tmp_path / "lazy", None, CPU) == 0
    lazy, resident = only_run(tmp_path / "lazy"), only_run(tmp_path / "resident")
    assert_same(final_state(lazy), final_state(resident))
    assert (lazy / "reals.png").read_bytes() == (resident / "reals.png").read_bytes()


@pytest.mark.usefixtures("no_memory")
def test_resuming_is_exact_when_images_are_lazy(digits_archive, tmp_path):
    chosen = {"data": str(digits_archive), **SMALL, "kimg": 0.064}
    assert start(chosen, tmp_path / "whole", None, CPU) == 0
    assert start({**chosen, "kimg": 0.032}, tmp_path / "parts", None, CPU) == 0
    assert start({"kimg": 0.064}, tmp_path / "parts", "auto", CPU) == 0
    assert_same(final_state(only_run(tmp_path / "parts")), final_state(only_run(tmp_path / "whole")))


@pytest.mark.usefixtures("no_memory")
def test_an_image_that_cannot_be_read_in_the_middle_loses_nothing(digits_archive, tmp_path, monkeypatch):
    """The run saves at the step before and says so; when the image can be read again it goes on as if nothing was."""
    chosen = {"data": str(digits_archive), **SMALL}
    image, asked = Archive.image, []

    def failing(self: Archive, row: int, read: object) -> object:
        asked.append(row)
        if len(asked) > 3 * 400 + 100 + 70:  # before training all are looked at three times, and reals.png shows 100
            raise UserError(f"{self.path}: {self.names[row]!r} is damaged (test); get the archive again")
        return image(self, row, read)

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "image", failing)
        with pytest.raises(UserError, match=r"is damaged \(test\).*; state saved in ") as caught:
            start(chosen, tmp_path / "parts", None, CPU)
    assert "\n" not in str(caught.value)
    run = only_run(tmp_path / "parts")
    reached = load_state(list_states(run)[-1])[1]["counters"]["nimg"]
    assert 0 < reached < 96
    assert reached % 8 == 0
    assert start({}, tmp_path / "parts", "auto", CPU) == 0
    assert start(chosen, tmp_path / "whole", None, CPU) == 0
    assert_same(final_state(run), final_state(only_run(tmp_path / "whole")))


SCRIPT = """
import os, sys
from pathlib import Path
from stylegan2_msp.data import archive, storage
from stylegan2_msp.errors import UserError

folder, mode = Path(os.environ["FOLDER"]), os.environ["MODE"]
image, rows = archive.Archive.image, []

def noted(self, row, read):
    rank = os.environ.get("RANK", "0")
    rows.append(row)
    with open(folder / f"decoded-by-{rank}", "a") as file:
        file.write(f"{row}\\n")
    if mode == "failing" and rank == "1" and len(rows) > 2 * 400 + 18:
        raise UserError(f"{self.path}: {self.names[row]!r} is damaged (test); get the archive again")
    return image(self, row, read)

archive.Archive.image = noted
if mode != "resident":
    storage.free_memory = lambda: 0
if __name__ == "__main__":
    from stylegan2_msp.cli import run
    from stylegan2_msp.cli.train import train
    run(train)
"""


def launch(folder: Path, mode: str, data: Path, gpus: int) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Trains in that many processes that note which images they decode; gives what came of it and the run's folder."""
    folder.mkdir()
    script = folder / "train.py"
    script.write_text(SCRIPT)
    chosen = {
        **SMALL,
        "fp32": True,
        "aug": "fixed",
        "p": 0.5,
        "kimg": 0.032,
        "tick": 0.008,
        "snap": 9,
    }
    chosen |= {"data": data, "outdir": folder / "runs", "gpus": gpus, "device": "cpu", "flatten": 0.0}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    extra = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "FOLDER": str(folder), "MODE": mode}
    done = subprocess.run(
        [sys.executable, str(script), *words],
        capture_output=True,
        text=True,
        env={**os.environ, **extra},
        check=False,
    )
    return done, only_run(folder / "runs")


def decoded(folder: Path, rank: str) -> list[int]:
    return [int(line) for line in (folder / f"decoded-by-{rank}").read_text().split()]


@pytest.mark.slow
def test_two_processes_share_one_decode_and_see_the_batch_of_one(digits_archive, tmp_path):
    runs = {}
    for name, mode, gpus in (("one", "lazy", 1), ("two", "lazy", 2), ("shared", "resident", 2)):
        done, run = launch(tmp_path / name, mode, digits_archive, gpus)
        assert done.returncode == 0, done.stderr
        runs[name] = losses(run)
    assert len(runs["one"]) == 4
    for one, two, shared in zip(runs["one"], runs["two"], runs["shared"], strict=True):
        assert two == shared
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)
    halves = [decoded(tmp_path / "shared", rank) for rank in "01"]
    assert sorted(halves[0] + halves[1]) == list(range(400))
    assert len(halves[0]) == len(halves[1]) == 200


@pytest.mark.slow
def test_an_image_that_one_of_two_processes_cannot_read(digits_archive, tmp_path):
    done, run = launch(tmp_path / "x", "failing", digits_archive, 2)
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "is damaged (test)" in done.stderr
    assert "; state saved in " in done.stderr
    assert "Traceback" not in done.stderr
    reached = load_state(list_states(run)[-1])[1]["counters"]["nimg"]
    assert 0 < reached < 32
    again = Machine(device="cpu", workers=2, gpus=2)
    assert start({"kimg": reached / 1000 + 0.008}, tmp_path / "x" / "runs", "auto", again) == 0
