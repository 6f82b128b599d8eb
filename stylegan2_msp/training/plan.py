"""What a training is to be, decided before any process starts: data, configuration, run folder, what to go on from."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.config import DataInfo, TrainConfig, resolve
from stylegan2_msp.data.archive import Archive, open_archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import make_folder, refuse_address
from stylegan2_msp.networks.precision import bfloat16_pays
from stylegan2_msp.progress import tell
from stylegan2_msp.training.checkpoint import find_state, load_state
from stylegan2_msp.training.transfer import adopted, read_source

_CHANGEABLE = ("kimg", "snap", "tick", "metrics", "data", "gamma", "lrate")  # options that a resumed run may set anew


@dataclass(frozen=True)
class Machine:
    """Options that say how this machine is used; they do not belong to the run."""

    device: str | None = None
    gpus: int | None = None
    workers: int | None = None
    nhwc: bool | None = None
    graphs: bool | None = None
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


def prepare(
    given: dict[str, Any],
    outdir: Path,
    resume: str | None,
    machine: Machine,
    device: str,
    processes: int,
    dry_run: bool,
) -> Plan | None:
    """Decides everything that the processes share, and finds what is wrong before any of them starts.

    The arguments are those of `launch.start`; ``device`` and ``processes`` are decided. None after a dry run.

    Raises:
        UserError: data, options or what is to be resumed do not fit.
    """
    if resume is not None:
        refuse_address(resume)
    if resume is not None and resume.endswith(".pkl"):
        raise UserError(f"--resume {resume}: is a pickle; make a snapshot of it with `stylegan2-msp import {resume}`")
    snapshot = resume is not None and resume.endswith(".safetensors")
    state = find_state(resume, outdir) if resume is not None and not snapshot else None
    if resume == "auto" and state is None:
        tell(f"--resume auto: no state under {outdir}, starting anew.")
    saved = load_state(state)[0] if state is not None else None
    if given.get("data") is None:
        if saved is None:
            raise UserError("--data: which archive? Give --data X.zip (made by `dataset`), or --resume a run")
        if not Path(saved.data).exists():
            raise UserError(f"--data: {state} was trained on {saved.data}, which is not here; give --data X.zip")
        given = {**given, "data": saved.data}
    named = Path(given["data"]).absolute()
    archive = _annotated(given, device)
    _check_beside(given, outdir, resume, named, archive)
    if archive.annotated and classifier_of(archive) is None:
        for option in ("consistency", "consistency_uniform", "consistency_class", "consistency_witness"):
            if given.get(option):
                name = option.replace("_", "-")
                raise UserError(f"--{name}: {archive.path} holds no classifier; annotate it with one or leave it out")
        tell(f"{archive.path} holds no classifier: no consistency term, and nothing to measure MSP with.")
    elif archive.annotated and archive.probs is None:
        for option in ("consistency_class", "consistency_witness"):
            if given.get(option):
                name = option.replace("_", "-")
                raise UserError(f"--{name}: {archive.path} holds no probabilities; annotate it, or leave it out")
        given = {**given, "consistency_class": 0.0, "consistency_witness": 0.0}
    given = {**given, "data": str(archive.path)}
    transfer = Path(resume) if snapshot and resume else None
    if saved is not None and state is not None and saved.data_sha256 != archive.content_sha256:
        if resume == "auto":
            raise UserError(
                f"--resume auto: the newest run, {state.parent}, was trained on other data than {archive.path}; "
                f"name it (--resume {state.parent}) to start a new run from its weights"
            )
        tell(f"{archive.path} is other data than {state} was trained on: a new run starts from its weights.")
        transfer, saved = state, None
    if saved is not None and state is not None:
        plan = Plan(_continued(saved, given, processes), state.parent, device, machine, state=state)
    else:
        config = _new_config(given, archive, processes, device, transfer)
        folder = _run_folder(outdir, named, config, dry_run)
        plan = Plan(config, folder, device, machine, weights=transfer)
    tell(json.dumps({k: v for k, v in plan.config.to_dict().items() if k != "given"}, indent=1))
    if plan.config.condition == "none" and given.get("cond") is None and archive.num_classes and not archive.annotated:
        advice = "annotate it, or give --classifier, to train on class and MSP"
        tell(f"{archive.path} has no MSP: training without any condition; {advice}.")
    if dry_run:
        tell(f"Dry run; would train in {plan.folder}.")
        return None
    make_folder(plan.folder)
    tell(f"Training in {plan.folder} on {processes} x {device}.")
    return plan


def _check_beside(given: dict[str, Any], outdir: Path, resume: str | None, data: Path, archive: Archive) -> None:
    """Options that only the data, or what is resumed, show to be wrong; raises `UserError`."""
    if data.is_dir() and outdir.resolve().is_relative_to(data.resolve()):
        raise UserError(
            f"--outdir {outdir}: lies in the data, whose images the run's pictures would join; choose another"
        )
    if (given.get("subset") or 0) > len(archive):
        raise UserError(
            f"--subset {given['subset']}: {archive.path} holds {len(archive)}; ask for fewer or leave it out"
        )
    if given.get("freezed") and resume is None:
        raise UserError("--freezed: keeps layers of D as another run left them; add --resume or leave it out")


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
    changes = {k: given[k] for k in _CHANGEABLE if k != "tick" and given.get(k) is not None}
    if given.get("tick") is not None:
        changes["tick_kimg"] = given["tick"]
    return dataclasses.replace(saved, batch_gpu=_share_at_once(saved, processes), **changes)


def _share_at_once(saved: TrainConfig, processes: int) -> int:
    """How much of its share each process takes at once: all of it, or where --batch-gpu was given no more than that.

    Raises:
        UserError: D cannot divide such a part into its groups.
    """
    share = saved.batch // processes
    most = share if saved.given.get("batch_gpu") is None else min(saved.batch_gpu, share)
    group = saved.D_kwargs.get("epilogue_kwargs", {}).get("mbstd_group_size", 1)
    fitting = [n for n in range(group, most + 1, group) if share % n == 0]
    if not fitting:
        raise UserError(
            f"--gpus={processes}: D compares groups of {group} images, which must divide each process's share of "
            f"{share}; choose fewer processes"
        )
    return fitting[-1]


def _run_folder(outdir: Path, data: Path, config: TrainConfig, dry_run: bool) -> Path:
    """NNNNN-data-cfg-seed, numbered after the runs that exist; made at once, lest another `train` take it, too."""
    if not dry_run:
        make_folder(outdir)
    name = re.sub(r"[^\w.-]+", "_", data.stem.lstrip("."))[:40]
    while True:
        taken = [int(m.group(1)) for p in outdir.glob("*") if (m := re.match(r"(\d{5})-", p.name))]
        folder = outdir / f"{max(taken, default=-1) + 1:05d}-{name}-{config.cfg}-seed{config.seed}"
        if dry_run:
            return folder
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError:
            make_folder(folder)  # says why not
        return folder


def classifier_of(archive: Archive) -> FrozenClassifier | None:
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
