"""Training on a device that is not the host, without a GPU: nothing is left behind, and no phase waits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from second_device import DEVICE, second_device
from trainers import PHASES, make_trainer, plain_descent

from stylegan2_msp.data.annotate import annotate_archive
from stylegan2_msp.snapshot import load_snapshot, newest_snapshot
from stylegan2_msp.training.distributed import World
from stylegan2_msp.training.graphs import _REHEARSALS
from stylegan2_msp.training.launch import start
from stylegan2_msp.training.plan import Machine
from stylegan2_msp.training.step import Trainer
from stylegan2_msp.uncertainty import MEASURES

pytestmark = pytest.mark.slow


class Watched:
    """Stands for `PhaseGraphs`, and notes what waits within each phase."""

    def __init__(self, waits: list[str]) -> None:
        self.waits = waits
        self.found: dict[str, list[list[str]]] = {}

    def run(self, name: str, work: Callable[..., None], *inputs: torch.Tensor, undo: Callable[[], None]) -> None:
        before = len(self.waits)
        work(*inputs)
        self.found.setdefault(name, []).append(self.waits[before:])


def watch(trainer: Trainer, waits: list[str], run: Callable[[], None], times: int) -> dict[str, list[str]]:
    """What waits in each phase from the rehearsal on in which a wait is an error; tables of filters are made before."""
    watched: Any = Watched(waits)
    trainer.graphs = watched
    for _ in range(times):
        run()
    assert all(len(calls) > _REHEARSALS for calls in watched.found.values())
    return {name: [w for call in calls[_REHEARSALS - 1 :] for w in call] for name, calls in watched.found.items()}


def augment(trainer: Trainer) -> None:
    """A pipe on the host does nothing while p is 0, one on a device always does the same."""
    assert trainer.state.pipe is not None
    trainer.state.pipe.p.fill_(0.3)


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "label noise": {"label_noise": "auto", "embedding": "film"},
    "vicinal": {"vicinal": 0.05, "label_noise": 0.02, "embedding": "learned"},
    "uniform levels": {"consistency_uniform": 1.0, "consistency_augment": 0.5},
    "all augmentations": {"augpipe": "bgcfnc"},
    "half precision": {"precision": "bf16"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_images(digits_archive: Path, options: dict[str, Any]) -> None:
    with second_device() as waits:
        trainer = make_trainer(digits_archive, DEVICE.type, consistency_kimg=0.0, **options)
        trainer.call_witness()
        augment(trainer)
        found = watch(trainer, waits, trainer.step, 8)
        assert {p.device for p in trainer.state.G_ema.parameters()} == {DEVICE}
    assert found == {name: [] for name in PHASES}


@pytest.mark.parametrize("measure", sorted(MEASURES.keys() - {"msp"}))
def test_other_measures(digits_archive: Path, tmp_path: Path, measure: str) -> None:
    path = annotate_archive(digits_archive, tmp_path / "data.zip", "train", uncertainty=measure, device="cpu")
    with second_device() as waits:
        trainer = make_trainer(path, DEVICE.type, consistency_kimg=0.0, consistency_uniform=1.0)
        found = watch(trainer, waits, trainer.generator_phase, 4)
    assert found == {"G": []}


def test_a_whole_run_and_its_resumption(digits_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylegan2_msp.training.launch.choose_device", lambda device, gpus: (DEVICE.type, 1))
    monkeypatch.setattr("stylegan2_msp.training.launch.join_world", lambda device: World(device=DEVICE))
    given = {"data": str(digits_archive), "cfg": "tiny", "batch": 8, "kimg": 0.064, "tick": 0.032, "snap": 1}
    with second_device():
        assert start({**given, "consistency_kimg": 0.0, "precision": "fp32"}, tmp_path, None, Machine()) == 0
    (folder,) = tmp_path.iterdir()
    with second_device():
        assert start({"kimg": 0.096}, tmp_path, str(folder), Machine()) == 0
    rows = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [row["kimg"] for row in rows][-1] == pytest.approx(0.096)
    assert all(math.isfinite(row["loss/G"]) and "condition/uniform_mae" in row for row in rows)
    assert load_snapshot(newest_snapshot(folder)).G.c_dim == 11


def test_points(moons_archive: Path) -> None:
    with second_device() as waits:
        trainer = make_trainer(moons_archive, DEVICE.type, consistency_kimg=0.0)
        found = watch(trainer, waits, trainer.step, 8)
    assert found == {"G": [], "D": [], "R1": []}


def test_the_device_computes_what_the_host_does(digits_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.optim.Adam", plain_descent)
    there, here = [], make_trainer(digits_archive, "cpu")
    augment(here)
    with second_device():
        trainer = make_trainer(digits_archive, DEVICE.type)
        augment(trainer)
        for _ in range(3):
            trainer.step()
            there.append(trainer.pop_statistics())
    for found in there:
        here.step()
        assert found == pytest.approx(here.pop_statistics(), rel=1e-3, abs=1e-4)


def test_it_tells_what_waits_and_what_is_left_behind() -> None:
    with second_device() as waits:
        x = torch.arange(6.0, device=DEVICE).reshape(2, 3)
        x.view(6).add_(1)
        assert (x * 2).cpu().tolist() == [[2, 4, 6], [8, 10, 12]]
        assert len(waits) == 1
        assert float(x.sum()) == 21
        assert x[x > 3].shape == (3,)
        torch.tensor([1.0], device=DEVICE)
        x * torch.tensor(2.0)
        assert len(waits) == 5
        with pytest.raises(RuntimeError, match="one tensor is on the device, another on the host"):
            x + torch.ones(2, 3)
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        weight = torch.ones(3, requires_grad=True, device=DEVICE)
        (slope,) = torch.autograd.grad((x @ weight).square().sum(), weight, create_graph=True)
        slope.sum().backward()
        assert weight.grad is not None
        assert weight.grad.device == DEVICE
        assert weight.grad.tolist() == (2 * x.T @ x).sum(dim=0).tolist()
