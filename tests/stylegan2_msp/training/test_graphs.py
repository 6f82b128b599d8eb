"""Phases replayed as CUDA graphs train as they do kernel by kernel; what cannot be a graph is told in time."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from trainers import PHASES, make_trainer, plain_descent, statistics

from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.training.checkpoint import load_state, save_state
from stylegan2_msp.training.graphs import PhaseGraphs
from stylegan2_msp.training.plan import classifier_of
from stylegan2_msp.training.replay import Recorder

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


class Graph(Recorder):
    """Stands for a CUDA graph on the CPU. Unlike one it also runs while it records, so the first replay is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded_only = True

    def register_generator_state(self, generator: torch.Generator) -> None:
        pass

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket is torch.ops.aten._local_scalar_dense:
            raise RuntimeError("called a synchronizing operation")
        return super().__torch_dispatch__(func, types, args, kwargs)

    def replay(self) -> None:
        if not self.recorded_only:
            super().replay()
        self.recorded_only = False


class Stream:
    def __init__(self, device: torch.device | None = None) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        pass


class Capturing:
    """Stands for ``torch.cuda.graph``, and leaves behind what that leaves where CUDA breaks a recording off."""

    def __init__(self) -> None:
        self.current = self.default = Stream()
        self.open: set[int] = set()  # pools that the allocator fills
        self.pools = 0

    def new_pool(self) -> int:
        self.pools += 1
        return self.pools

    def end_pool(self, device: int, pool: int) -> None:
        if pool not in self.open:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.open.remove(pool)

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    @contextmanager
    def __call__(self, graph: Graph, pool: int, stream: Stream) -> Iterator[None]:
        if pool in self.open:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        before, self.current = self.current, stream
        self.open.add(pool)
        try:
            with graph:
                yield
        except RuntimeError as error:
            if "CUDA" in str(error):
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture") from None
            self.open.remove(pool)
            self.current = before
            raise
        self.open.remove(pool)
        self.current = before


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Capturing:
    """CUDA graphs on the CPU, as far as `PhaseGraphs` uses them."""
    watching = []
    capturing = Capturing()

    def debug_mode(mode: str) -> None:
        if mode == "error":
            watching.append(Graph())
            watching[-1].__enter__()
        else:
            watching.pop().__exit__(None, None, None)

    stand_ins = {
        "Stream": Stream,
        "current_stream": lambda: capturing.current,
        "current_device": lambda: 0,
        "set_stream": capturing.set_stream,
        "stream": lambda stream: nullcontext(),
        "graph_pool_handle": capturing.new_pool,
        "CUDAGraph": Graph,
        "graph": capturing,
        "set_sync_debug_mode": debug_mode,
        "empty_cache": lambda: None,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(f"stylegan2_msp.training.graphs.torch.cuda.{name}", stand_in)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", capturing.end_pool)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: None)
    return capturing


def test_no_phase_depends_on_the_host(emulated: Capturing, digits_archive: Path) -> None:
    """Replays of what was recorded train to the bit as the phases themselves do, when the classifier begins, too."""
    replayed, direct = (make_trainer(digits_archive, "cpu") for _ in "ab")
    for trainer in (replayed, direct):
        assert trainer.state.pipe is not None
        trainer.call_witness()
        trainer.state.pipe.p.fill_(0.3)  # on a CPU a pipe is left out while p is 0
    replayed.graphs = PhaseGraphs(torch.device("cuda"), replayed.state.rng.generator)
    for one, other in zip(statistics(replayed, 20), statistics(direct, 20), strict=True):
        assert one == other
    assert replayed.graphs.direct == set()
    assert {name for name, phase in replayed.graphs.phases.items() if phase.graph} == PHASES
    for one, other in zip(replayed.state.G_ema.parameters(), direct.state.G_ema.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(replayed.state.pl_mean, direct.state.pl_mean)
    assert float(replayed.state.pl_mean) > 0
    assert replayed.state.pipe.p == direct.state.pipe.p
    assert float(direct.state.pipe.p) != pytest.approx(0.3)  # ADA has moved it, by an odd number of steps


def test_a_phase_that_waits_is_done_directly(emulated: Capturing, caplog: pytest.LogCaptureFixture) -> None:
    phases, total, undone = PhaseGraphs(torch.device("cuda"), torch.Generator()), torch.zeros(2), []

    def waits(x: torch.Tensor) -> None:
        total[0] += x.item()

    for i in range(6):
        phases.run("waits", waits, torch.tensor(float(i)), undo=lambda: undone.append(True))
        phases.run("does not", total[1].add_, torch.tensor(float(i)), undo=lambda: undone.append(False))
    assert total.tolist() == [15, 15]
    assert (phases.direct, undone) == ({"waits"}, [True])
    assert "The waits phase cannot be a CUDA graph" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("why", ["CUDA error: operation not permitted when stream is capturing", "something else"])
def test_a_phase_that_cannot_be_recorded_is_done_directly(
    emulated: Capturing, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    """Whatever broke its recording off, other phases are recorded before and after it."""
    phases, total, calls = PhaseGraphs(torch.device("cuda"), torch.Generator()), torch.zeros(3), []

    def work(x: torch.Tensor) -> None:
        calls.append(len(calls))
        if len(calls) == 4:
            raise RuntimeError(f"{why}\nmore")
        total[1].add_(x)

    for _ in range(6):
        phases.run("before", total[0].add_, torch.ones(()), undo=lambda: None)
        phases.run("G", work, torch.ones(()), undo=lambda: None)
        phases.run("after", total[2].add_, torch.ones(()), undo=lambda: None)
    assert total.tolist() == [6, 6, 6]
    assert phases.direct == {"G"}
    assert emulated.current is emulated.default
    assert emulated.open == set()
    (record,) = caplog.records
    assert record.getMessage().endswith(f"slower for it: {why}")


def test_graphs_are_given_up_where_they_leave_a_phase_too_little_memory(
    emulated: Capturing, caplog: pytest.LogCaptureFixture
) -> None:
    phases, total, kept, undone = PhaseGraphs(torch.device("cuda"), torch.Generator()), torch.zeros(2), [], []

    class Activations:
        pass

    def large(x: torch.Tensor) -> None:
        made = Activations()
        taken = [ref for ref in kept if ref() is not None] + [phase for phase in phases.phases.values() if phase.graph]
        kept.append(weakref.ref(made))
        if taken:
            raise torch.OutOfMemoryError("CUDA out of memory")
        total[1].add_(x)

    for i in range(6):
        phases.run("small", total[0].add_, torch.ones(()), undo=lambda: None)
        if i > 2:
            phases.run("large", large, torch.ones(()), undo=lambda: undone.append(True))
    assert total.tolist() == [6, 3]
    assert undone == [True]
    assert not phases.phases
    assert len(caplog.records) == 1


def test_memory_that_no_graph_takes_is_the_callers_matter(emulated: Capturing) -> None:
    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    phases = PhaseGraphs(torch.device("cuda"), torch.Generator())
    with pytest.raises(torch.OutOfMemoryError):
        phases.run("large", work, undo=lambda: None)
    assert phases.enabled


@pytest.fixture
def exact() -> Any:
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class TestOnGpu:
    pytestmark = on_gpu

    def test_graphs_change_no_loss(self, digits_archive: Path, exact: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """In float32 with plain descent; see test_fast_path for why not with Adam."""
        monkeypatch.setattr("torch.optim.Adam", plain_descent)
        replayed, direct = (make_trainer(digits_archive, "cuda", precision="fp32") for _ in "ab")
        direct.graphs.enabled = False
        for one, other in zip(statistics(replayed, 24), statistics(direct, 24), strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
        assert replayed.graphs.direct == set()
        assert {name for name, phase in replayed.graphs.phases.items() if phase.graph} == PHASES

    def test_a_state_goes_on_with_graphs(self, digits_archive: Path, tmp_path: Path) -> None:
        trainer = make_trainer(digits_archive, "cuda")
        statistics(trainer, 12)
        path = save_state(tmp_path, trainer.state, trainer.config)
        again = make_trainer(digits_archive, "cuda")
        again.state.load_state_dict(load_state(path)[1])
        for one, other in zip(statistics(again, 8), statistics(trainer, 8), strict=True):
            assert one["D"] == pytest.approx(other["D"], rel=0.05)
        assert again.state.nimg == trainer.state.nimg == 20 * 32

    def test_a_classifier_that_waits_is_asked_directly(
        self, digits_archive: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        classifier = classifier_of(open_archive(digits_archive))
        assert classifier is not None
        forward = classifier.forward
        classifier.forward = lambda x: forward(x) * float(x.abs().max() > -1)  # type: ignore[method-assign]
        trainer = make_trainer(digits_archive, "cuda", classifier)
        with caplog.at_level(logging.WARNING):
            found = statistics(trainer, 16)
        assert trainer.graphs.direct == {"G"}
        assert caplog.text.count("cannot be a CUDA graph") == 1
        assert trainer.graphs.phases["D"].graph is not None
        assert "consistency" in found[-1]

    def test_a_broken_recording_leaves_the_rest_working(self) -> None:
        device = torch.device("cuda", 0)
        generator = torch.Generator(device).manual_seed(0)
        phases, total, calls = PhaseGraphs(device, generator), torch.zeros((), device=device), []

        def work(x: torch.Tensor) -> None:
            calls.append(True)
            if len(calls) == 4:
                torch.cuda.synchronize()
            total.add_(x + 0 * torch.rand((), generator=generator, device=device))

        for _ in range(6):
            phases.run("breaks", work, torch.ones((), device=device), undo=lambda: None)
            phases.run("works", total.add_, torch.ones((), device=device), undo=lambda: None)
        assert float(total) == 12
        assert phases.direct == {"breaks"}
        assert torch.randn(4, device=device).isfinite().all()
        assert torch.randn(4, device=device, generator=generator).isfinite().all()

    def test_graphs_that_leave_a_phase_too_little_memory_are_given_up(self, caplog: pytest.LogCaptureFixture) -> None:
        device = torch.device("cuda", 0)
        phases, total = PhaseGraphs(device, torch.Generator(device)), torch.zeros((), device=device)

        def work(x: torch.Tensor) -> None:
            total.add_(x.expand(2**26).clone().mean())  # 256 MiB

        def run(name: str) -> None:
            phases.run(name, work, torch.ones((), device=device), undo=lambda: None)

        for _ in range(4):
            run("first")
        torch.cuda.empty_cache()
        allowed = torch.cuda.memory_reserved(device) + 2**27
        torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(device).total_memory)
        try:
            run("second")
            run("first")
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert float(total) == 6
        assert not phases.enabled
        assert len(caplog.records) == 1
