"""Phases of a step as graphs: recorded once, then replayed without the Python that called their operators."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass

import torch

from stylegan2_msp.training.replay import Recorder

_REHEARSALS = 3  # calls before a phase is recorded: kernels are built and cuDNN's algorithms chosen by then


@dataclass
class _Recorded:
    key: int
    calls: int = 0
    graph: torch.cuda.CUDAGraph | Recorder | None = None
    inputs: tuple[torch.Tensor, ...] = ()


class PhaseGraphs:
    """Runs phases; each is recorded when it has run a few times, on a GPU as a CUDA graph, and then replayed.

    A step of a small network is some two thousand kernels of a few microseconds each, which a host starts several
    times more slowly than the GPU runs them. A graph is started at once. On a CPU a graph is the list of operators
    (`Recorder`), which leaves out autograd and the code of the networks. What a phase does must depend on nothing on
    the host but its name and the number of its inputs, and it may leave results only in tensors that live on.

    On a CPU a phase that cannot be recorded just runs as it is. On a GPU one that waits for
    the device (which a classifier of the user's own may make it do) is told from the others before it is recorded, and
    runs as on a CPU, as does one that cannot be recorded; one line says so. Graphs keep the memory of the largest phase
    to themselves: where the GPU has too little for a phase beside them, they are given up, and one line says so.

    Args:
        device: where the phases run.
        generator: source of their random numbers.
        enabled: record at all.
    """

    def __init__(self, device: torch.device, generator: torch.Generator, enabled: bool = True) -> None:
        self.enabled = enabled
        self.generator = generator
        self.phases: dict[str, _Recorded] = {}
        self.direct: set[str] = set()
        on_gpu = enabled and device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_gpu else None
        self.pool = torch.cuda.graph_pool_handle() if on_gpu else None  # memory that they share

    def run(self, name: str, work: Callable[..., None], *inputs: torch.Tensor, undo: Callable[[], None]) -> None:
        """Does ``work(*inputs)``.

        Args:
            name: of the phase.
            work: what it does.
            inputs: tensors that change from call to call, but not their shapes.
            undo: puts in order what ``work`` leaves behind when it is broken off.
        """
        try:
            self._run_or_do(name, work, inputs, undo)
            return
        except torch.OutOfMemoryError:
            if not any(phase.graph for phase in self.phases.values()):
                raise
        # Only now, when the error and with it what the phase had come to are gone, is their memory free.
        self._give_up()
        undo()
        work(*inputs)

    def _give_up(self) -> None:
        self.enabled = False
        self.phases.clear()
        torch.cuda.empty_cache()
        logging.getLogger(__name__).warning(
            "The GPU's memory does not hold a phase beside the CUDA graphs of the others: all phases run without them, "
            "and are slower for it; with a smaller --batch-gpu they may fit"
        )

    def _run_or_do(
        self, name: str, work: Callable[..., None], inputs: tuple[torch.Tensor, ...], undo: Callable[[], None]
    ) -> None:
        if self.enabled and name not in self.direct:
            try:
                self._run(name, work, inputs)
                return
            except _CannotBeRecorded as error:
                self.direct.add(name)
                logging.getLogger(__name__).warning(
                    "The %s phase cannot be a CUDA graph, and is slower for it: %s", name, error
                )
                undo()
        work(*inputs)

    def _run(self, name: str, work: Callable[..., None], inputs: tuple[torch.Tensor, ...]) -> None:
        phase = self.phases.get(name)
        if phase is None or phase.key != len(inputs):
            phase = self.phases[name] = _Recorded(len(inputs))
        phase.calls += 1
        if self.stream is None and phase.graph is None:
            self._note_operators(name, phase, work, inputs)
            return
        if phase.calls <= _REHEARSALS:
            self._rehearse(work, inputs, last=phase.calls == _REHEARSALS)
            return
        if phase.graph is None:
            phase.inputs = tuple(t.clone() for t in inputs)
            phase.graph = self._record(work, phase.inputs)
        for kept, given in zip(phase.inputs, inputs, strict=True):
            kept.copy_(given)
        phase.graph.replay()

    def _note_operators(
        self, name: str, phase: _Recorded, work: Callable[..., None], inputs: tuple[torch.Tensor, ...]
    ) -> None:
        """Does it on a CPU, and notes how when it has run a few times."""
        if phase.calls <= _REHEARSALS:
            work(*inputs)
            return
        phase.inputs = tuple(t.clone() for t in inputs)
        with Recorder() as recorder:
            work(*phase.inputs)
        phase.graph = recorder
        if recorder.refused is not None:
            self.direct.add(name)
            logging.getLogger(__name__).info("The %s phase is not replayed: %s", name, recorder.refused)

    def _rehearse(self, work: Callable[..., None], inputs: tuple[torch.Tensor, ...], last: bool) -> None:
        """Does it on the stream that will record it, the last time watching for waits."""
        assert self.stream is not None
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream), _waits_are_errors() if last else nullcontext():
                work(*inputs)
        except RuntimeError as error:
            if not last or "synchronizing" not in str(error):
                raise
            raise _CannotBeRecorded(
                "it waits for the GPU in every step (likely for a classifier that reads values back to the host)"
            ) from error
        finally:
            torch.cuda.current_stream().wait_stream(self.stream)

    def _record(self, work: Callable[..., None], inputs: tuple[torch.Tensor, ...]) -> torch.cuda.CUDAGraph:
        before = torch.cuda.current_stream()
        try:
            return self._captured(lambda: work(*inputs))
        except RuntimeError as error:
            self._clear_up(before)
            first = error.__context__ or error  # what broke it off, and not only that it cannot be ended
            raise _CannotBeRecorded(str(first).splitlines()[0]) from error

    def _clear_up(self, stream: torch.cuda.Stream) -> None:
        """Ends what a recording that was broken off leaves open, which PyTorch does only where one ends well.

        The recording stream is still the current one, the allocator still fills the pool and refuses to begin with it
        again, and the sources of random numbers wait for the end of a recording.
        """
        assert self.pool is not None
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError):  # it did end well: something else than CUDA broke it off
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self.pool)
            torch._C._cuda_releasePool(torch.cuda.current_device(), self.pool)
        self.pool = torch.cuda.graph_pool_handle()
        self._captured(lambda: torch.zeros((), device=self.generator.device))

    def _captured(self, work: Callable[[], object]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            work()
        return graph


class _CannotBeRecorded(Exception):
    """A phase that has to be run directly, and why."""


@contextmanager
def _waits_are_errors() -> Iterator[None]:
    """Within it, whatever waits for the GPU raises a RuntimeError instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls this mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
