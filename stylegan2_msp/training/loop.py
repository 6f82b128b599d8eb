"""The loop: steps, ticks, snapshots, states, and leaving in good order."""

from __future__ import annotations

import json
import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from stylegan2_msp.agreement import archive_agreement
from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.config import TrainConfig
from stylegan2_msp.data.archive import Archive
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import replacing
from stylegan2_msp.report.training import save_fakes, save_reals
from stylegan2_msp.signals import asked_to_end
from stylegan2_msp.snapshot import save_snapshot
from stylegan2_msp.training.checkpoint import give_up_after, save_state
from stylegan2_msp.training.distributed import World
from stylegan2_msp.training.logs import RunLog, duration, memory_gib, tick_line
from stylegan2_msp.training.monitor import ConditionMonitor
from stylegan2_msp.training.step import Trainer, UnreadableReals


@dataclass
class StopRequest:
    """Remembers that the run was asked to save and leave; a later second request ends it at once."""

    signum: int = 0

    def take(self, signum: int, _: Any) -> None:
        """Handles the signal."""
        if self.signum:
            raise SystemExit(128 + signum)
        self.signum = signum


@dataclass
class Run:
    """A training run in its folder: trains until ``config.kimg``, reports at every tick, saves at every snapshot."""

    folder: Path
    config: TrainConfig
    archive: Archive
    data: TrainingSet
    classifier: FrozenClassifier | None
    trainer: Trainer
    world: World

    def __post_init__(self) -> None:
        self.log = RunLog(self.folder if self.world.rank == 0 else None, self.config.kimg)
        self.monitor = None
        if self.config.metrics == "condition" and self.classifier is not None and self.world.rank == 0:
            self.monitor = ConditionMonitor(self.classifier, self.data)

    def train(self) -> int:
        """Runs to the end or to a stop; returns the exit code (0, or 128 + signal)."""
        state, config = self.trainer.state, self.config
        total = int(config.kimg * 1000)
        stop = StopRequest()
        with asked_to_end(stop.take), self.log:
            self._begin()
            clock = time.monotonic()
            base, tick_nimg, tick_clock = state.seconds, state.nimg, clock
            while state.nimg < total:
                try:
                    self.trainer.step()
                except UnreadableReals as error:
                    self._leave(error)
                state.seconds = base + time.monotonic() - clock
                self.log.advance(state.nimg / 1000)
                if self._stops(stop):
                    self._save()
                    self.log.say(
                        f"Stopped by signal at {state.nimg / 1000:.1f} kimg; state saved in {self.folder}. "
                        f"Go on with --resume {shlex.quote(self.folder.as_posix())}"
                    )
                    return 128 + (stop.signum or signal.SIGTERM)
                if state.nimg >= state.tick_start + config.tick_kimg * 1000 or state.nimg >= total:
                    state.tick, state.tick_start = state.tick + 1, state.nimg
                    self._tick(max(state.nimg - tick_nimg, 1), time.monotonic() - tick_clock)
                    if state.tick % config.snap == 0 or state.nimg >= total:
                        self._save()
                    tick_nimg, tick_clock = state.nimg, time.monotonic()
            self.log.say(
                f"Done: {state.nimg / 1000:.1f} kimg in {duration(state.seconds)}; "
                f"pictures and snapshots in {self.folder}"
            )
        return 0

    def _leave(self, error: UnreadableReals) -> NoReturn:
        """Saves and leaves because an image of the next step cannot be read by some process."""
        self._save()
        self.world.any(False)  # nobody leaves before the state is saved
        if error.mine is None:
            raise SystemExit(1)
        raise UserError(f"{error.mine}; state saved in {self.folder}") from error

    def _begin(self) -> None:
        nimg = self.trainer.state.nimg
        self.log.forget_after(nimg / 1000)
        if self.world.rank == 0:
            for path in self.folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                path.unlink(missing_ok=True)
            with replacing(self.folder / "training_options.json") as temporary:
                temporary.write_text(json.dumps(self.config.to_dict(), indent=2) + "\n", encoding="utf-8")
            for path in give_up_after(self.folder, nimg):
                self.log.say(f"{path}: a later state of this run, which goes on from {nimg / 1000:.1f} kimg.")
        if self.world.rank == 0 and not (self.folder / "reals.png").is_file():
            save_reals(self.folder / "reals.png", self.archive, self.data.on_host(), self.data.index)
        if self.classifier is not None:
            self.classifier.verify_frozen()

    def _stops(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; processes agree every fourth step, which costs one small message."""
        if self.world.size > 1 and self.trainer.state.step % 4:
            return False
        return self.world.any(bool(stop.signum))

    def _tick(self, nimg: int, seconds: float) -> None:
        state = self.trainer.state
        means = self.trainer.pop_statistics()
        stats: dict[str, Any] = {
            "tick": state.tick,
            "kimg": state.nimg / 1000,
            "seconds": round(state.seconds, 2),
            "sec_per_kimg": seconds / nimg * 1000,
            "memory_gib": memory_gib(self.world.device),
            "augment_p": float(state.pipe.p) if state.pipe is not None else 0.0,
            **{f"loss/{name}": value for name, value in means.items()},
        }
        if any(value != value for value in means.values()):
            raise UserError(
                f"{self.folder}: training diverged (a loss is not a number at {stats['kimg']:.1f} kimg); "
                "resume from an older state with a larger --gamma or a smaller --lrate"
            )
        if self.monitor is not None:
            stats |= self.monitor.measure(state.G_ema)
        if self.world.rank == 0:
            self.log.record(stats)
            self.log.say(tick_line(stats, self.monitor.title if self.monitor else "MSP"))

    def _save(self) -> None:
        """Fakes, snapshot and state; only the first process writes."""
        self.trainer.merge_buffers()
        if self.world.rank != 0:
            return
        state, name = self.trainer.state, f"{self.trainer.state.nimg // 1000:06d}"
        save_fakes(self.folder / f"fakes{name}.png", state.G_ema, self.classifier, self.archive, self.config.condition)
        save_snapshot(
            self.folder / f"network-snapshot-{name}.safetensors",
            state.G_ema,
            self.classifier.to_bytes() if self.classifier is not None else None,
            snapshot_info(self.config, self.archive, state.nimg),
        )
        save_state(self.folder, state, self.config)


def snapshot_info(config: TrainConfig, archive: Archive, nimg: int) -> dict[str, Any]:
    """What a snapshot says of itself, plain JSON data."""
    agreement = archive_agreement(archive)
    return {
        "kind": archive.kind,
        "num_classes": archive.num_classes,
        "class_names": archive.class_names,
        "condition": config.condition,
        "uncertainty": archive.uncertainty,
        "agreement": None if agreement is None else agreement.to_dict(),
        "kimg": nimg / 1000,
        "data": {
            "name": archive.path.name,
            "sha256": config.data_sha256,  # as it was when the run began: by now the file may be another, or gone
            "count": len(archive),
            "split": archive.split,
        },
        "config": config.to_dict(),
        "torch": torch.__version__,
    }
