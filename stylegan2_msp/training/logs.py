"""What a run tells: log.txt, stats.jsonl, tensorboard, a progress bar on a terminal and plain lines elsewhere."""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.progress import TaskID

from stylegan2_msp.errors import UserError
from stylegan2_msp.files import replacing
from stylegan2_msp.progress import make_bar, on_terminal, silence, tell


class RunLog:
    """Writes a run's messages and statistics; a silent one (``run`` is None) serves all processes but the first.

    Args:
        run: the run folder.
        total_kimg: length of the run, for the bar.
    """

    def __init__(self, run: Path | None, total_kimg: float) -> None:
        self.run = run
        self.total_kimg = total_kimg
        self.bar = make_bar() if run is not None and on_terminal() else None
        self.task: TaskID | None = None
        self.tensorboard = _tensorboard(run) if run is not None else None
        self._shown = 0.0

    def __enter__(self) -> RunLog:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("train", total=round(self.total_kimg, 1), unit="kimg", info="")
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.tensorboard is not None:
            with suppress(OSError):  # a full disk, which others have told of or will tell of
                self.tensorboard.close()

    def say(self, line: str) -> None:
        """One line for log.txt and the console; a console that is gone (`| head`, a closed terminal) ends no run.

        Raises:
            UserError: log.txt cannot be written.
        """
        if self.run is None:
            return
        _append(self.run / "log.txt", line)
        if self.bar is None:
            tell(line)
            return
        try:
            self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        except OSError:
            silence(sys.stderr)

    def advance(self, kimg: float) -> None:
        """Moves the bar, at most twice a second."""
        now = time.monotonic()
        if self.bar is not None and self.task is not None and now - self._shown > 0.5:
            self._shown = now
            self.bar.update(self.task, completed=round(kimg, 1))

    def record(self, stats: dict[str, Any]) -> None:
        """One tick's figures: a line in stats.jsonl, and in tensorboard where it is installed.

        Raises:
            UserError: stats.jsonl cannot be written.
        """
        if self.run is None:
            return
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in stats.items()}
        _append(self.run / "stats.jsonl", json.dumps(plain))
        if self.tensorboard is not None:
            step = int(stats["kimg"] * 1000)
            try:
                for name, value in stats.items():
                    if isinstance(value, int | float) and not math.isnan(value):
                        self.tensorboard.add_scalar(name, value, global_step=step)
            except OSError:
                self.tensorboard = None  # stats.jsonl has the same figures

    def forget_after(self, kimg: float) -> None:
        """Drops statistics that a resumed run will produce again."""
        if self.run is None or not (self.run / "stats.jsonl").is_file():
            return
        path = self.run / "stats.jsonl"
        rows = [line for line in path.read_text(encoding="utf-8").splitlines() if _kimg_of(line) <= kimg]
        with replacing(path) as temporary:
            temporary.write_text("".join(row + "\n" for row in rows), encoding="utf-8")


def tick_line(stats: dict[str, Any], measure: str = "MSP") -> str:
    """The console's line for one tick, with the title of the measure that G is conditioned on."""
    parts = [
        f"tick {stats['tick']:<4d} kimg {stats['kimg']:<8.1f} time {duration(stats['seconds']):<10s}",
        f"sec/kimg {stats['sec_per_kimg']:<7.2f} mem {stats['memory_gib']:<5.2f}GiB p {stats['augment_p']:.3f}",
        f"G {stats['loss/G']:.3f} D {stats['loss/D']:.3f}",
    ]
    if "condition/natural_mae" in stats:
        for name in ("natural", "uniform"):
            rho, error = stats[f"condition/{name}_spearman"], stats[f"condition/{name}_mae"]
            parts.append(f"{measure} {name}: rho {_show(rho)} mae {_show(error)}")
        parts.append(f"diversity {_show(stats['condition/natural_diversity'])}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as 1h 02m 03s."""
    minutes, sec = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m {sec:02d}s" if hours else f"{minutes}m {sec:02d}s"


def memory_gib(device: torch.device) -> float:
    """Peak GPU memory on CUDA, this process's resident memory elsewhere, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30


def _show(value: float | None) -> str:
    return "  -  " if value is None or math.isnan(value) else f"{value:.3f}"


def _append(path: Path, line: str) -> None:
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line + "\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free space, then go on with --resume {path.parent} "
            "from the last state, if there is one"
        ) from error


def _kimg_of(line: str) -> float:
    try:
        return float(json.loads(line)["kimg"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line that was cut off


def _tensorboard(run: Path) -> Any:
    """A writer of tensorboard's files; None where it is not installed, or cannot take the folder's name (not UTF-8).

    Where it is installed but does not work, as beside a protobuf of another version, one line says so.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(run))
    except (ImportError, OSError, UnicodeEncodeError):
        return None
    except Exception as error:  # what it needs has errors of its own
        reason = " ".join(str(error).split())[:200]
        tell(f"tensorboard does not work here ({type(error).__name__}: {reason}); stats.jsonl has the same figures.")
        return None
