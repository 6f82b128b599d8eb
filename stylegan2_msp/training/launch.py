"""From options to a running training: one process, several, or torchrun's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout

from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.device import cores, keep_freed_memory
from stylegan2_msp.errors import UserError
from stylegan2_msp.options import check_choices
from stylegan2_msp.progress import tell
from stylegan2_msp.training.checkpoint import restore
from stylegan2_msp.training.distributed import (
    World,
    choose_device,
    join_world,
    launch,
    leave_world,
    under_torchrun,
)
from stylegan2_msp.training.loop import Run
from stylegan2_msp.training.plan import Machine, Plan, classifier_of, prepare
from stylegan2_msp.training.step import Trainer
from stylegan2_msp.training.transfer import load_weights


def start(given: dict[str, Any], outdir: Path, resume: str | None, machine: Machine, dry_run: bool = False) -> int:
    """Trains as the options say; returns the exit code.

    Args:
        given: options that belong to the run, None where not given.
        outdir: folder of all runs.
        resume: 'auto', a run folder, a state, a snapshot, or None.
        machine: how this machine is used.
        dry_run: print the resolved configuration and stop.
    """
    check_choices(given)
    device, processes = choose_device(machine.device, machine.gpus)
    if under_torchrun():
        return _start_joined(given, outdir, resume, machine, device, dry_run)
    plan = prepare(given, outdir, resume, machine, device, processes, dry_run)
    if plan is None:
        return 0
    if processes == 1:
        return _work(plan)
    if device == "cpu":
        tell(f"No GPU here: {processes} processes share the CPU and the batch (gloo).")
    return launch(_work, processes, plan)


def _start_joined(
    given: dict[str, Any], outdir: Path, resume: str | None, machine: Machine, device: str, dry_run: bool
) -> int:
    """Under torchrun: the first process prepares, all of them work."""
    world = join_world(device)
    try:
        message: list[Any] = [None]
        if world.rank == 0:
            try:
                if machine.gpus not in (None, world.size, world.local_size):
                    raise UserError(
                        f"--gpus={machine.gpus}: RANK and WORLD_SIZE are set, as by torchrun, and say {world.size}; "
                        "leave --gpus out, or unset them"
                    )
                message = [prepare(given, outdir, resume, machine, device, world.size, dry_run)]
            except UserError as error:
                message = [error]
        if world.size > 1:
            dist.broadcast_object_list(message, src=0)
        if isinstance(message[0], UserError):
            if world.rank == 0:
                raise message[0]
            return 1
        return 0 if message[0] is None else _train(message[0], world)
    finally:
        leave_world()


def _work(plan: Plan) -> int:
    world = join_world(plan.device)
    try:
        return _train(plan, world)
    finally:
        leave_world()


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Numbers too small for the normal form count as zero inside the block: CPUs are slow at them."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _full_memory_named(at_once: int) -> Iterator[None]:
    """Says in one line what helps where a GPU's memory does not hold a pass of so many images.

    Raises:
        UserError: it does not.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        less = f"start with --batch-gpu={at_once // 2}" if at_once > 1 else "choose smaller networks with --cfg"
        raise UserError(f"--batch-gpu: {at_once} images at once do not fit in the GPU's memory; {less}") from error


@contextmanager
def _held(folder: Path, world: World) -> Iterator[None]:
    """Keeps other trainings out of the run's folder as long as the first process lives.

    Raises:
        UserError: another one works in it.
    """
    lock, error = FileLock(folder / ".lock", timeout=0), None
    if world.rank == 0:
        try:
            lock.acquire()
        except Timeout:
            error = UserError(f"{folder}: another `train` works in it; wait until it ends, or choose another run")
        except (OSError, NotImplementedError):
            pass  # a file system without locks
    if (error := world.gather(error)[0]) is not None:
        raise error
    try:
        yield
    finally:
        lock.release()


def _train(plan: Plan, world: World) -> int:
    with _held(plan.folder, world), _denormals_flushed(), _full_memory_named(plan.config.batch_gpu):
        return _train_here(plan, world)


def _train_here(plan: Plan, world: World) -> int:
    if world.device.type == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.benchmark = not plan.machine.nobench
    torch.backends.cuda.matmul.allow_tf32 = bool(plan.machine.allow_tf32)
    torch.backends.cudnn.allow_tf32 = bool(plan.machine.allow_tf32)
    config = plan.config
    archive = open_archive(config.data)
    workers = plan.machine.workers or max(1, cores() // world.local_size)
    data = TrainingSet(
        archive, config.condition, world.device, config.subset, config.seed, config.mirror, workers, world
    )
    classifier = classifier_of(archive)
    if classifier is not None:
        classifier = classifier.to(world.device) if config.condition == "class+msp" else None
    machine = plan.machine
    nhwc, graphs = machine.nhwc is not False, machine.graphs is not False
    trainer = Trainer(config, data, archive.num_classes, classifier, world, nhwc, graphs)
    if plan.state is not None:
        restore(plan.state, trainer.state)
    elif plan.weights is not None:
        load_weights(plan.weights, trainer.state, plan.config)
    trainer.call_witness()
    return Run(plan.folder, config, archive, data, classifier, trainer, world).train()
