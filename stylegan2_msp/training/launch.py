"""From options to a running training: data, configuration, run folder, resumption, processes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.config import DataInfo, TrainConfig, resolve
from stylegan2_msp.data.archive import Archive, open_archive
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.device import keep_freed_memory
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import make_folder, replacing
from stylegan2_msp.networks.precision import bfloat16_pays, use_channels_last
from stylegan2_msp.options import check_choices
from stylegan2_msp.training.checkpoint import find_state, load_state
from stylegan2_msp.training.distributed import (
    World,
    choose_device,
    join_world,
    launch,
    leave_world,
    under_torchrun,
)
from stylegan2_msp.training.loop import Run
from stylegan2_msp.training.step import Trainer
from stylegan2_msp.training.transfer import adopted, load_weights, read_source

_CHANGEABLE = ("kimg", "snap", "tick", "metrics", "data")  # options that a resumed run may set anew


@dataclass(frozen=True)
class Machine:
    """Options that say how this machine is used; they do not belong to the run."""

    device: str | None = None
    gpus: int | None = None
    workers: int | None = None
    nhwc: bool | None = None
    nobench: bool | None = None
    allow_tf32: bool | None = None


@dataclass(frozen=True)
class Plan:
    """A decided run, the same for every process."""

    config: TrainConfig
    folder: Path
    device: str
    machine: Machine
    state: Path | None = None  # continue exactly here
    weights: Path | None = None  # start a new run from these weights


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
    plan = _prepare(given, outdir, resume, machine, device, processes, dry_run)
    if plan is None:
        return 0
    if processes == 1:
        return _work(plan)
    if device == "cpu":
        print(f"No GPU here: {processes} processes share the CPU and the batch (gloo).", flush=True)
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
                message = [_prepare(given, outdir, resume, machine, device, world.size, dry_run)]
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


@_denormals_flushed()
def _train(plan: Plan, world: World) -> int:
    if world.device.type == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.benchmark = not plan.machine.nobench
    torch.backends.cuda.matmul.allow_tf32 = bool(plan.machine.allow_tf32)
    torch.backends.cudnn.allow_tf32 = bool(plan.machine.allow_tf32)
    config = plan.config
    archive = open_archive(config.data)
    workers = plan.machine.workers or max(1, (os.cpu_count() or 1) // world.local_size)
    data = TrainingSet(
        archive, config.condition, world.device, config.subset, config.seed, config.mirror, workers, world
    )
    classifier = _classifier(archive)
    if classifier is not None:
        classifier = classifier.to(world.device) if config.condition == "class+msp" else None
    trainer = Trainer(config, data, archive.num_classes, classifier, world)
    if plan.state is not None:
        trainer.state.load_state_dict(load_state(plan.state)[1])
    elif plan.weights is not None:
        load_weights(plan.weights, trainer.state, plan.config)
    if plan.machine.nhwc:
        for network in (trainer.state.G, trainer.state.D, trainer.state.G_ema):
            use_channels_last(network)
    return Run(plan.folder, config, archive, data, classifier, trainer, world).train()


def _classifier(archive: Archive) -> FrozenClassifier | None:
    """The classifier that travels in the archive.

    Raises:
        UserError: it is damaged, or made for other data.
    """
    if archive.classifier_bytes is None:
        return None
    found = FrozenClassifier.from_bytes(archive.classifier_bytes)
    mine = (found.kind, found.num_classes, found.img_channels, found.img_resolution)
    data = (archive.kind, archive.num_classes, archive.img_channels, archive.img_resolution)
    if mine != data:
        raise UserError(
            f"{archive.path}: its classifier is for {mine[1]} classes of {mine[0]}, {mine[2]} x {mine[3]} x {mine[3]}; "
            f"the data have {data[1]} classes of {data[0]}, {data[2]} x {data[3]} x {data[3]}; annotate again"
        )
    if archive.uncertainty not in (None, found.measure.name):
        named = f"its labels are {archive.uncertainty}, its classifier gives {found.measure.name}"
        raise UserError(f"{archive.path}: {named}; annotate again")
    return found


def _prepare(
    given: dict[str, Any],
    outdir: Path,
    resume: str | None,
    machine: Machine,
    device: str,
    processes: int,
    dry_run: bool,
) -> Plan | None:
    """Decides everything that the processes share, and finds what is wrong before any of them starts."""
    if resume is not None and resume.endswith(".pkl"):
        raise UserError(f"--resume {resume}: is a pickle; make a snapshot of it with `stylegan2-msp import {resume}`")
    snapshot = resume is not None and resume.endswith(".safetensors")
    state = find_state(resume, outdir) if resume is not None and not snapshot else None
    if resume == "auto" and state is None:
        print(f"--resume auto: no state under {outdir}, starting anew.", flush=True)
    saved = load_state(state)[0] if state is not None else None
    if given.get("data") is None:
        if saved is None:
            raise UserError("--data: which archive? Give --data X.zip (made by `dataset`), or --resume a run")
        given = {**given, "data": saved.data}
    archive = _annotated(given, device)
    if archive.annotated and _classifier(archive) is None:
        for option in ("consistency", "consistency_uniform", "consistency_class"):
            if given.get(option):
                name = option.replace("_", "-")
                raise UserError(f"--{name}: {archive.path} holds no classifier; annotate it with one or leave it out")
        print(f"{archive.path} holds no classifier: no consistency term, and nothing to measure MSP with.", flush=True)
    elif archive.annotated and archive.probs is None:
        if given.get("consistency_class"):
            raise UserError(f"--consistency-class: {archive.path} holds no probabilities; annotate it, or leave it out")
        given = {**given, "consistency_class": 0.0}
    given = {**given, "data": str(archive.path)}
    transfer = Path(resume) if snapshot and resume else None
    if saved is not None and state is not None and saved.data_sha256 != archive.content_sha256:
        print(
            f"{archive.path} is other data than {state} was trained on: a new run starts from its weights.", flush=True
        )
        transfer, saved = state, None
    if saved is not None and state is not None:
        plan = Plan(_continued(saved, given, processes), state.parent, device, machine, state=state)
    else:
        config = _new_config(given, archive, processes, device, transfer)
        folder = _run_folder(outdir, archive, config, dry_run)
        plan = Plan(config, folder, device, machine, weights=transfer)
    print(json.dumps({k: v for k, v in plan.config.to_dict().items() if k != "given"}, indent=1), flush=True)
    if dry_run:
        print(f"Dry run; would train in {plan.folder}.")
        return None
    make_folder(plan.folder)
    with replacing(plan.folder / "training_options.json") as temporary:
        temporary.write_text(json.dumps(plan.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    print(f"Training in {plan.folder} on {processes} x {device}.", flush=True)
    return plan


def _annotated(given: dict[str, Any], device: str) -> Archive:
    """The archive, annotated into a cache beside it when it has only class labels and a classifier is given."""
    archive = open_archive(given["data"])
    if archive.annotated or given.get("classifier") is None:
        return archive
    from stylegan2_msp.data.annotate import annotate_cached

    cached = annotate_cached(
        archive.path,
        given["classifier"],
        weights=given.get("classifier_weights"),
        device=device,
        seed=given.get("seed") or 0,
    )
    return open_archive(cached)


def _new_config(
    given: dict[str, Any], archive: Archive, processes: int, device: str, transfer: Path | None
) -> TrainConfig:
    info = DataInfo(
        kind=archive.kind,
        img_resolution=archive.img_resolution,
        img_channels=archive.img_channels,
        num_classes=archive.num_classes,
        annotated=archive.annotated,
        u_size=1 if archive.u is None or archive.u.ndim == 1 else archive.u.shape[1],
    )
    config = resolve(given, info, processes, device, device == "cpu" and bfloat16_pays("cpu"))
    config = dataclasses.replace(config, data_sha256=archive.content_sha256)
    if transfer is not None:  # what is learned is kept from the start (Karras et al. 2020b, section 4.1)
        config = adopted(config, read_source(transfer), given)
        config = dataclasses.replace(config, ema_rampup=None, ada_kimg=min(config.ada_kimg, 100.0))
    return config


def _continued(saved: TrainConfig, given: dict[str, Any], processes: int) -> TrainConfig:
    """The saved configuration with the few things that may change.

    Raises:
        UserError: another option differs from the run's.
    """
    for option, value in given.items():
        before = saved.given.get(option, getattr(saved, option, None))
        if value is not None and option not in _CHANGEABLE and value != before:
            raise UserError(
                f"--{option.replace('_', '-')}: is {value}, the run being resumed has {before}; leave it out"
            )
    if saved.batch % processes:
        raise UserError(f"--gpus={processes}: must divide the run's batch of {saved.batch}; choose another")
    batch_gpu = min(saved.batch_gpu, saved.batch // processes)
    if given.get("batch_gpu") is None and saved.given.get("batch_gpu") is None:
        batch_gpu = saved.batch // processes
    changes = {k: given[k] for k in ("kimg", "snap", "metrics", "data") if given.get(k) is not None}
    if given.get("tick") is not None:
        changes["tick_kimg"] = given["tick"]
    return dataclasses.replace(saved, batch_gpu=batch_gpu, **changes)


def _run_folder(outdir: Path, archive: Archive, config: TrainConfig, dry_run: bool) -> Path:
    """NNNNN-data-cfg-seed, numbered after the runs that exist."""
    if not dry_run:
        make_folder(outdir)
    taken = [int(m.group(1)) for p in outdir.glob("*") if (m := re.match(r"(\d{5})-", p.name))]
    name = re.sub(r"[^\w.-]+", "_", archive.path.stem.lstrip("."))[:40]
    return outdir / f"{max(taken, default=-1) + 1:05d}-{name}-{config.cfg}-seed{config.seed}"
