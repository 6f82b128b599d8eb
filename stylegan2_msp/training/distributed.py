"""Processes that share a batch: starting them, joining a torchrun, averaging gradients."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from stylegan2_msp.device import cores
from stylegan2_msp.errors import UserError
from stylegan2_msp.signals import LEFT, REACHES_ALL, asked_to_end

# Threads of the group give back tensors of its last messages, for which they need the interpreter's lock. Older torch
# (2.6, for one) keeps the lock while it waits for the threads to end: without a pause before, it may wait for ever.
_GIVE_BACK_SEC = 0.1
_LONGEST = 4000  # characters of a process's last words: a pipe takes so many of each


@torch.library.custom_op("stylegan2_msp::all_reduce_", mutates_args={"value"}, schema="(Tensor(a!) value) -> ()")
def _all_reduce(value: torch.Tensor) -> None:
    """Sum over processes, in place; an operator like others, so that a phase with it can be replayed."""
    dist.all_reduce(value)


@dataclass(frozen=True)
class World:
    """This process's place among those that share the batch."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over processes (all receive it)."""
        if self.size == 1:
            return value
        value = value.detach().clone()
        _all_reduce(value)
        return value / self.size

    def gather(self, value: Any) -> list[Any]:
        """Every process's value (anything that pickles), by rank; for set-up, not for the loop."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value)
        return bool(value > 0)

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replaces gradients by their mean over processes, in one message."""
        if self.size == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        _all_reduce(flat)
        flat /= self.size
        for grad, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(mean.view_as(grad))


def under_torchrun() -> bool:
    """Whether torchrun (or a like launcher) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def choose_device(device: str | None, gpus: int | None) -> tuple[str, int]:
    """Device type and number of local processes for ``--device`` and ``--gpus``.

    Raises:
        UserError: more GPUs are asked for than the machine has, or CUDA is asked for and missing.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cuda" and not found:
        raise UserError("--device cuda: this machine has no usable CUDA device; leave --device out or use --device cpu")
    kind = device or ("cuda" if found else "cpu")
    wanted = 1 if gpus is None else gpus
    if wanted < 1:
        raise UserError(f"--gpus: must be at least 1, found {wanted}")
    if kind == "cuda" and wanted > found:
        raise UserError(f"--gpus={wanted}: this machine has {found}; use --gpus={found} or --device cpu")
    return kind, wanted


def launch(work: Callable[..., int], processes: int, *args: Any) -> int:
    """Runs ``work(rank, size, port, *args)`` in ``processes`` local processes and returns the worst exit code.

    When this process is asked to end the workers are told, so that they can save and leave; when it is killed they do
    so by themselves.
    """
    context = multiprocessing.get_context("spawn")
    port, errors = _free_port(), context.SimpleQueue()
    workers = [
        context.Process(target=_worker, args=(work, rank, processes, port, errors, args), daemon=False)
        for rank in range(processes)
    ]
    asked: list[int] = []

    def pass_on(signum: int, _: Any) -> None:
        asked.append(signum)
        for worker in workers:
            if not REACHES_ALL and worker.pid is not None and worker.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGTERM)

    with asked_to_end(pass_on):
        _start(workers)
        if asked:  # by then some had not been there
            pass_on(asked[0], None)
        ended = _wait(workers)
    codes, said = [w.exitcode or 0 for w in workers], []
    while not errors.empty():
        said.append(errors.get())
    for text, for_the_user in said:
        if for_the_user:
            raise UserError(text)
    for rank, code in enumerate(codes):
        if code == -9 and rank not in ended:  # what the others say follows from it
            raise UserError(
                f"process {rank} of {processes} was killed (memory ran out?); go on with --resume auto from the last "
                "state, if there is one"
            )
    if asked and not {*codes}.isdisjoint({128 + signal.SIGTERM, -signal.SIGTERM}):
        return 128 + asked[0]
    for text, _ in said:
        print(text, file=sys.stderr, flush=True)
    return max((c if c >= 0 else 128 - c for c in codes), default=0)


def _start(workers: list[Any]) -> None:
    """Starts them deaf to Ctrl-C, which a terminal sends to all and which would break off their imports."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for worker in workers:
            worker.start()
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(workers: list[Any]) -> set[int]:
    """Waits for all; when one fails the rest are ended, since they would wait for it for ever: returns which.

    One that was asked to end has not failed: the first process may still have to save.
    """
    alive, ended = list(workers), set()
    while alive:
        for worker in list(alive):
            worker.join(timeout=0.2)
            if worker.exitcode is None:
                continue
            alive.remove(worker)
            if worker.exitcode not in {0, *LEFT}:
                for other in alive:
                    other.join(timeout=5)
                    if other.exitcode is None:
                        ended.add(workers.index(other))
                        other.terminate()
                        other.join(timeout=5)
                    if other.exitcode is None:
                        other.kill()
    return ended


def _worker(work: Callable[..., int], rank: int, size: int, port: int, errors: Any, args: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        raise SystemExit(work(*args))
    except UserError as error:
        errors.put((str(error), True))
        raise SystemExit(1) from error
    except Exception as error:
        errors.put((f"process {rank}: {traceback.format_exc()[-_LONGEST:]}", False))
        raise SystemExit(1) from error


def _leave_with_parent() -> None:
    """Asks this process to end when the one that started it is gone, and nobody is left who could ask."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if REACHES_ALL:
        signal.raise_signal(signal.SIGTERM)  # calls the handler, which os.kill does not there
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def join_world(device: str) -> World:
    """Takes this process's place: from the launcher's environment variables, or alone.

    On the CPU the cores are shared out among the local processes.

    Raises:
        UserError: there are fewer GPUs than processes, or the processes do not find each other.
    """
    if not under_torchrun():
        target = torch.device("cuda", 0) if device == "cuda" else torch.device("cpu")
        if device == "cuda":
            torch.cuda.set_device(target)
        return World(device=target)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"--gpus: {local_size} processes on a machine with {torch.cuda.device_count()} GPUs; start fewer"
            )
        target = torch.device("cuda", local_rank)
        torch.cuda.set_device(target)
    else:
        target = torch.device("cpu")
        torch.set_num_threads(max(1, cores() // local_size))
    if size > 1:
        # Its default arguments hold the group that is the world's when it is imported (optimizers import it). Before
        # the group exists that is none; later, the group's threads would outlive it and could abort a process at exit.
        importlib.import_module("torch.distributed.nn.functional")
        if sys.platform == "win32":  # torch's builds for it lack libuv, which is asked for by default
            os.environ.setdefault("USE_LIBUV", "0")
        nccl = device == "cuda" and dist.is_nccl_available()  # not on Windows, where gloo averages on GPUs, too
        try:
            dist.init_process_group("nccl" if nccl else "gloo", rank=rank, world_size=size)
        except (ValueError, dist.DistError) as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                f"the {size} processes do not find each other ({reason}); what starts them must set MASTER_ADDR and "
                "a free MASTER_PORT, as torchrun does, and start all of them"
            ) from error
    return World(rank, size, local_rank, local_size, target)


def leave_world() -> None:
    """Ends the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():  # some builds of torch lack all of it
        time.sleep(_GIVE_BACK_SEC)
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
