"""Operators that were noted on a CPU leave the same bits when called again; what hangs on values is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes
from trainers import PHASES, make_trainer, statistics

from stylegan2_msp.data.annotate import annotate_archive
from stylegan2_msp.training.graphs import PhaseGraphs
from stylegan2_msp.training.replay import Recorder
from stylegan2_msp.training.step import Trainer
from stylegan2_msp.uncertainty import MEASURES


def recorded(work: Callable[[], object]) -> Recorder:
    with Recorder() as recorder:
        work()
    assert recorder.refused is None
    return recorder


def assert_replays(work: Callable[[], object], *state: torch.Tensor, generator: torch.Generator | None = None) -> None:
    """Three replays leave in `state` what three calls leave."""
    recorder = recorded(work)
    before = [t.detach().clone() for t in state]
    seed = generator.get_state() if generator is not None else torch.get_rng_state()
    results = []
    for again in (work, recorder.replay):
        with torch.no_grad():
            for t, value in zip(state, before, strict=True):
                t.copy_(value)
        if generator is not None:
            generator.set_state(seed)
        else:
            torch.set_rng_state(seed)
        for _ in range(3):
            again()
        results.append([t.detach().clone() for t in state])
    for one, other, start in zip(*results, before, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, start)


def test_a_network_its_derivatives_and_its_optimizer() -> None:
    """Second derivatives, results that autograd saves (those of leaky_relu and tanh), several results, views."""
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.randn(6, 3, 3, 3))
    x, total = torch.randn(4, 3, 8, 8), torch.zeros(())
    optimizer = torch.optim.Adam([w], lr=0.1, fused=True)

    def work() -> None:
        given = x.clone().requires_grad_(True)
        y = F.leaky_relu(F.conv2d(given, w * 0.5, padding=1)).tanh()
        low, high = y.transpose(2, 3).split(3, dim=1)
        variance, mean = torch.var_mean(low * high[:, :, ::2].repeat(1, 1, 2, 1))
        (grad,) = torch.autograd.grad((variance + mean).square(), given, create_graph=True)
        grad.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total.add_(variance.detach())

    work()
    moments = [t for t in optimizer.state[w].values() if isinstance(t, torch.Tensor)]
    assert_replays(work, w, total, *moments)


@pytest.mark.parametrize("own", [True, False])
def test_random_numbers_go_on(own: bool) -> None:
    generator = torch.Generator().manual_seed(3) if own else None
    total = torch.zeros(5)
    assert_replays(lambda: total.add_(torch.randn(5, generator=generator)), total, generator=generator)


def test_what_lies_outside_is_seen_as_it_is_then() -> None:
    given, row, total = torch.ones(2, 3), torch.ones(2, 3), torch.zeros(2)
    view = row.t()
    recorder = recorded(lambda: total.add_(given.t()[1] + view[2]))
    given[:, 1] += 4
    row[:, 2] += 10
    recorder.replay()
    assert total.tolist() == [2 + 16, 2 + 16]


def test_writing_into_a_part_of_what_is_made_within() -> None:
    x, total = torch.arange(6.0), torch.zeros(2, 3)

    def work() -> None:
        table = torch.zeros(2, 3)
        table.view(6)[1:].copy_(x[1:] * 2)
        table[0].mul_(3)
        total.add_(table)

    assert_replays(work, total)


def test_values_under_another_shape_than_any_operator_gave_them() -> None:
    """Autograd may hand on a storage as a tensor that no operator returned."""
    x, total = torch.arange(6.0), torch.zeros(3, 2)

    with Recorder() as recorder:
        made = x * 2
        with _disable_current_modes():
            hidden = made.as_strided((3, 2), (1, 3))
        total.add_(hidden)
    x += 1
    recorder.replay()
    assert total.tolist() == (torch.arange(6.0) * 2 + (torch.arange(6.0) + 1) * 2).as_strided((3, 2), (1, 3)).tolist()


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: torch.equal(x, x + 1),
    ],
)
def test_looking_at_values_is_refused(look: Callable[[torch.Tensor], object]) -> None:
    with Recorder() as recorder:
        look(torch.arange(3.0))
    assert recorder.refused is not None


def test_indices_that_are_numbers_are_not() -> None:
    table, index, total = torch.arange(8.0), torch.tensor([1, 5]), torch.zeros(2)
    recorder = recorded(lambda: total.add_(table[index]))
    index += 1
    recorder.replay()
    assert total.tolist() == [1 + 2, 5 + 6]


def test_nothing_that_is_made_within_is_kept() -> None:
    refs = []

    def work() -> None:
        made = torch.ones(100) * 2
        refs.append(weakref.ref(made))
        made.sum()

    recorder = recorded(work)
    assert refs[0]() is None
    recorder.replay()
    assert all(t.numel() < 100 for t in recorder._given)


def test_a_phase_that_looks_at_values_runs_as_it_is() -> None:
    phases, total = PhaseGraphs(torch.device("cpu"), torch.Generator()), torch.zeros(2)

    def looks(x: torch.Tensor) -> None:
        total[0] += x.item()

    for i in range(7):
        phases.run("looks", looks, torch.tensor(float(i)), undo=lambda: None)
        phases.run("does not", total[1].add_, torch.tensor(float(i)), undo=lambda: None)
    assert total.tolist() == [21, 21]
    assert phases.direct == {"looks"}


def compared(path: Path, steps: int, **options: Any) -> Trainer:
    """Trains twice, with and without replays, and returns the first after both have left the same bits."""
    replayed, direct = (make_trainer(path, "cpu", **options) for _ in "ab")
    direct.graphs.enabled = False
    for trainer in (replayed, direct):
        trainer.call_witness()
    found: list[list[dict[str, float]]] = [[], []]
    for p in (0.0, 0.3, 0.0):  # augmentation begins, and ends
        for trainer, rows in zip((replayed, direct), found, strict=True):
            if trainer.state.pipe is not None:
                trainer.state.pipe.p.fill_(p)
            rows += statistics(trainer, steps)
    assert found[0] == found[1]
    for name in ("G", "D", "G_ema"):
        one, other = (getattr(trainer.state, name).state_dict() for trainer in (replayed, direct))
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert replayed.graphs.direct == set()
    return replayed


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "several rounds": {"batch_gpu": 8},
    "label noise": {"label_noise": "auto", "embedding": "film"},
    "vicinal": {"vicinal": 0.05, "label_noise": 0.02, "embedding": "learned"},
    "uniform levels": {"consistency_uniform": 1.0, "consistency_augment": 0.5},
    "all augmentations": {"augpipe": "bgcfnc"},
    "half precision": {"precision": "bf16"},
    "plain": {"consistency": 0.0, "flatten": 0.0, "embedding": "linear", "sharpness": False, "diversity": 0.0},
}


@pytest.mark.parametrize(
    "options",
    [pytest.param(o, id=name, marks=[] if name == "defaults" else pytest.mark.slow) for name, o in OPTIONS.items()],
)
def test_training_on_images(digits_archive: Path, options: dict[str, Any]) -> None:
    trainer = compared(digits_archive, 6, **options)
    replayed = {name for name, phase in trainer.graphs.phases.items() if phase.graph is not None}
    assert replayed >= {f"{name} without augmentation" for name in PHASES}
    assert replayed >= {"G", "D"}


TOGETHER = """
import sys
from pathlib import Path
from stylegan2_msp.training.distributed import join_world, launch

def work(data):
    from test_replay import compared
    world = join_world("cpu")
    trainer = compared(Path(data), 6, world=world)
    replayed = world.gather(sorted(name for name, phase in trainer.graphs.phases.items() if phase.graph is not None))
    if world.rank == 0:
        print(*map(",".join, replayed), sep="\\n")
    return 0

if __name__ == "__main__":
    sys.exit(launch(work, 2, sys.argv[1]))
"""


def test_processes_that_share_the_batch(digits_archive: Path, tmp_path: Path) -> None:
    """What they send each other is replayed, too."""
    (tmp_path / "together.py").write_text(TOGETHER)
    command = [sys.executable, str(tmp_path / "together.py"), str(digits_archive)]
    search = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    place = {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=place, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    one, other = (set(line.split(",")) for line in done.stdout.splitlines()[-2:])
    assert one == other >= {f"{name} without augmentation" for name in PHASES} | {"G", "D"}


def test_training_on_points(moons_archive: Path) -> None:
    trainer = compared(moons_archive, 4)
    assert {name for name, phase in trainer.graphs.phases.items() if phase.graph is not None} == {"G", "D", "R1"}


@pytest.mark.slow
@pytest.mark.parametrize("measure", sorted(MEASURES.keys() - {"msp"}))
def test_other_measures(digits_archive: Path, tmp_path: Path, measure: str) -> None:
    path = annotate_archive(digits_archive, tmp_path / "data.zip", "train", uncertainty=measure, device="cpu")
    compared(path, 4, consistency_kimg=0.0, consistency_uniform=1.0)
