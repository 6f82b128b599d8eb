"""The full state of a training run: everything that changes, in one object, saved and loaded exactly."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from stylegan2_msp.augment import AugmentPipe
from stylegan2_msp.config import TrainConfig
from stylegan2_msp.data.dataset import SampleOrder
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import replacing
from stylegan2_msp.networks import Discriminator, Generator, PointDiscriminator, PointGenerator
from stylegan2_msp.training.ada import AdaController
from torch_utils_ext.rng import BatchRng

FORMAT = "stylegan2-msp training state 1"
_COUNTERS = ("nimg", "step", "tick", "tick_start", "seconds")
_OWN = ("capturable", "lr")  # of an optimizer: as this device and this configuration have them, not the saved ones
_NAME = re.compile(r"training-state-(\d+)\.pt$")


@dataclass
class TrainState:
    """Everything stateful in a run. Two runs with equal states continue equally."""

    G: Generator | PointGenerator
    D: Discriminator | PointDiscriminator
    G_ema: Generator | PointGenerator
    opt_G: torch.optim.Optimizer
    opt_D: torch.optim.Optimizer
    order: SampleOrder
    rng: BatchRng
    pipe: AugmentPipe | None
    ada: AdaController | None
    pl_mean: torch.Tensor
    reached: torch.Tensor | None = None  # how varied fakes of each level are (`Diversity.reached`)
    witness: dict[str, torch.Tensor] | None = None  # what makes it again (`witness.Kept`)
    nimg: int = 0
    step: int = 0
    tick: int = 0
    tick_start: int = 0  # nimg at which the current tick began
    seconds: float = 0.0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)  # statistics since the last tick

    def state_dict(self) -> dict[str, Any]:
        """Plain containers and tensors only, so that it can be loaded with weights_only."""
        state: dict[str, Any] = {
            name: getattr(self, name).state_dict() for name in ("G", "D", "G_ema", "opt_G", "opt_D", "order", "rng")
        }
        if self.pipe is not None:
            state["p"] = self.pipe.p.detach().cpu()
        if self.ada is not None:
            state["ada_seen"] = self.ada.seen
        state["pl_mean"] = self.pl_mean
        if self.reached is not None:
            state["reached"] = self.reached
        if self.witness is not None:
            state["witness"] = self.witness
        state["counters"] = {name: getattr(self, name) for name in _COUNTERS}
        state["sums"] = dict(self.sums)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        own = [{name: group[name] for name in _OWN} for group in self._groups()]
        for name in ("G", "D", "G_ema", "opt_G", "opt_D", "order", "rng"):
            getattr(self, name).load_state_dict(state[name])
        for group, kept in zip(self._groups(), own, strict=True):
            group.update(kept)
        if self.pipe is not None:
            self.pipe.p.copy_(state["p"])
        device = self.pl_mean.device
        if self.ada is not None and "ada_seen" in state:  # not in states of before, nor is "reached"
            self.ada.seen.copy_(state["ada_seen"])
        self.pl_mean.copy_(state["pl_mean"])
        if self.reached is not None and "reached" in state:
            self.reached.copy_(state["reached"])
        self.witness = state.get("witness")
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])
        self.sums = {k: v.to(device) for k, v in state["sums"].items()}

    def _groups(self) -> list[dict[str, Any]]:
        return [*self.opt_G.param_groups, *self.opt_D.param_groups]


def state_path(run: Path, nimg: int) -> Path:
    """training-state-NNNNNN.pt of a run, NNNNNN in kimg."""
    return run / f"training-state-{nimg // 1000:06d}.pt"


def state_beside(snapshot: Path) -> Path | None:
    """The training state of the same kimg in a snapshot's folder, which holds D as well; None where there is none."""
    name = snapshot.name.replace("network-snapshot", "training-state")
    path = snapshot.with_name(name).with_suffix(".pt")
    return path if path.is_file() else None


def save_state(run: Path, state: TrainState, config: TrainConfig, keep: int = 2) -> Path:
    """Writes the state, then removes all but the newest ``keep``; a kill at any moment leaves a loadable one.

    Raises:
        UserError: it cannot be written; the earlier ones stay.
    """
    path = state_path(run, state.nimg)
    content = {"format": FORMAT, "config": json.dumps(config.to_dict()), "state": state.state_dict()}
    with replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # so torch says that it could not write everything
            raise UserError(
                f"{path}: cannot be written whole (is the disk full?); free space, then go on with --resume {run} "
                "from the last state, if there is one"
            ) from error
    for old in list_states(run)[:-keep]:
        with suppress(OSError):  # Windows removes none that a backup has open; the next time, then
            old.unlink()
    return path


def load_state(path: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """Reads a state with weights_only: tensors and plain containers, never code.

    Raises:
        UserError: the file is missing, truncated or not such a state.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give --resume a training-state-*.pt, a run folder or auto")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        return TrainConfig.from_dict(json.loads(content["config"])), content["state"]
    except Exception as error:  # torch.load reports damage with many types
        raise UserError(f"{path}: cannot be read as a training state ({_reason(error)}); use an older one") from error


def restore(path: Path, state: TrainState) -> None:
    """Continues from a file of `save_state`.

    Raises:
        UserError: as `load_state`; or what it holds is not what this version's networks and optimisers have.
    """
    found = load_state(path)[1]
    try:
        state.load_state_dict(found)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: does not fit this version of the program ({_reason(error)}); go on with the version that wrote "
            "it, or start a new run from the snapshot beside it"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2])[:160]


def list_states(run: Path) -> list[Path]:
    """The states of one run, oldest first."""
    return sorted((p for p in run.glob("training-state-*.pt") if _NAME.search(p.name)), key=lambda p: p.name)


def give_up_after(run: Path, nimg: int) -> list[Path]:
    """Renames states of more than nimg images to NAME.given-up: the run goes on from an older one; returns them."""
    later = [path for path in list_states(run) if path.name > state_path(run, nimg).name]
    return [path.replace(path.with_name(path.name + ".given-up")) for path in later]


def find_state(resume: str, outdir: Path) -> Path | None:
    """The state that ``--resume`` means: 'auto' is the newest below outdir (None when there is none).

    Raises:
        UserError: a named file or folder holds no state.
    """
    if resume == "auto":
        runs = sorted(
            (r for r in outdir.glob("*") if list_states(r)), key=lambda r: list_states(r)[-1].stat().st_mtime_ns
        )
        return list_states(runs[-1])[-1] if runs else None
    path = Path(resume)
    if path.is_dir():
        states = list_states(path)
        if not states:
            raise UserError(f"--resume {path}: holds no training-state-*.pt; give another run folder")
        return states[-1]
    return path
