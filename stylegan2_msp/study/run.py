"""Runs an experiment stage by stage; what is already there is not made again."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stylegan2_msp.errors import UserError
from stylegan2_msp.files import make_folder, replacing
from stylegan2_msp.metrics.quality import check_torchmetrics
from stylegan2_msp.signals import REACHES_ALL, asked_to_end, leave
from stylegan2_msp.study.experiments import Experiment, Variant


@dataclass(frozen=True)
class Study:
    """An experiment in its folder.

    Attributes:
        experiment: what to compare.
        folder: everything is written here.
        seeds: the seeds of every variant.
        scale: factor on the length of training.
        source: folder of the data, where the experiment needs one.
        device: as in `train`; None is the default there.
        gpus: processes of each training.
        images: items of each distribution that are measured; None is the experiment's own number.
        cfg: preset of the networks, as in `train`; None is the default there.
    """

    experiment: Experiment
    folder: Path
    seeds: tuple[int, ...]
    scale: float
    source: str | None
    device: str | None
    gpus: int
    images: int | None = None
    cfg: str | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Makes the folder and holds it: rows of two processes, experiments or lengths must not meet in one table.

        Raises:
            UserError: --source is missing, another process works in the folder, or it was begun for another experiment,
                length, number of items or preset.
        """
        if self.experiment.needs_source and self.source is None:
            raise UserError("--source: this experiment needs the folder of its images; name it")
        make_folder(self.folder)
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"{self.folder}: another `reproduce` works in it; wait, or name another --outdir") from None
        except (OSError, NotImplementedError):
            pass  # a file system without locks
        try:
            self._claim()
            yield
        finally:
            lock.release()

    def run(self) -> None:
        """Makes the data, trains and measures every variant with every seed.

        Raises:
            UserError: a stage failed, or torchmetrics, which `evaluate` needs, is missing (before any training).
        """
        check_torchmetrics()
        for variant, seed in self.rows():
            data = self._data(variant.measure)
            if not self._evaluation(variant, seed).joinpath("results.json").is_file():
                if variant.of is None:
                    self._train(variant, seed, data)
                if variant.compared:
                    self._evaluate(variant, seed, data)

    def _claim(self) -> None:
        begun = self.folder / "begun.txt"
        ours = f"{self.experiment.title}, --scale {self.scale:g}, --images {self.items}"
        ours += f", --cfg {self.cfg}" if self.cfg else ""
        if not begun.is_file():
            with replacing(begun) as temporary:
                temporary.write_text(ours + "\n", encoding="utf-8")
        theirs = begun.read_text(encoding="utf-8", errors="replace").strip()
        if theirs != ours:
            raise UserError(f"{self.folder}: was begun as {theirs!r}, not as {ours!r}; name another --outdir")

    @property
    def items(self) -> int:
        """Items of each distribution that are measured."""
        return self.experiment.images if self.images is None else self.images

    def rows(self) -> Iterator[tuple[Variant, int]]:
        """All variants of the first seed, then of the next: a study that is cut off has whole comparisons."""
        for seed in self.seeds:
            for variant in self.experiment.variants:
                yield variant, seed

    def results(self, variant: Variant, seed: int) -> Path:
        """Where `evaluate` wrote what it found."""
        return self._evaluation(variant, seed) / "results.json"

    def _runs(self, variant: Variant, seed: int) -> Path:
        return self.folder / f"{_as_file(variant.of or variant.name)}-seed{seed}"

    def _evaluation(self, variant: Variant, seed: int) -> Path:
        return self._runs(variant, seed) / (f"evaluation-{_as_file(variant.name)}" if variant.of else "evaluation")

    def _data(self, measure: str) -> Path:
        archive = self.folder / f"data-{measure}.zip"
        if archive.is_file():
            return archive
        e = self.experiment
        words = [word.replace("{source}", self.source or "") for word in e.data]
        if self.source is None and "--source" in words:  # MNIST is downloaded
            at = words.index("--source")
            words[at : at + 2] = []
        chosen = ["--uncertainty", measure]
        if not e.annotate:
            _call("dataset", *words, *chosen, "--dest", str(archive))
            return archive
        images = self.folder / "images.zip"
        if not images.is_file():
            _call("dataset", *words, "--dest", str(images))
        _call("dataset", "annotate", "--data", str(images), *e.annotate, *chosen, "--dest", str(archive))
        return archive

    def _train(self, variant: Variant, seed: int, data: Path) -> None:
        runs = self._runs(variant, seed)
        kimg = f"--kimg={self.experiment.kimg * self.scale:g}"
        where = ["--outdir", str(runs), f"--gpus={self.gpus}", *([f"--device={self.device}"] if self.device else [])]
        if any(runs.glob("*/training-state-*.pt")):
            _call("train", "--resume", "auto", kimg, *where)
            return
        where += [f"--cfg={self.cfg}"] if self.cfg else []
        condition = [] if "--cond=1" in variant.train else ["--cond-msp=1"]
        _call("train", "--data", str(data), *condition, *variant.train, f"--seed={seed}", kimg, *where)

    def _evaluate(self, variant: Variant, seed: int, data: Path) -> None:
        words = [
            "--network",
            str(self._runs(variant, seed)),
            "--data",
            str(data),
            f"--images={self.items}",
            *variant.evaluate,
        ]
        for other in self.experiment.variants:
            if not other.compared:
                words += ["--baseline", str(self._runs(other, seed))]
        device = ["--device", self.device] if self.device else []
        _call("evaluate", *words, *device, "--outdir", str(self._evaluation(variant, seed)))


def choose(experiment: Experiment, names: tuple[str, ...]) -> Experiment:
    """The experiment with the named variants and those that they measure; without names, as it is.

    Raises:
        UserError: a name that the experiment does not have.
    """
    known = [variant.name for variant in experiment.variants]
    for name in names:
        if name not in known:
            raise UserError(f"--variant {name!r}: must be one of {', '.join(map(repr, known))}")
    wanted = {*names, *(v.of for v in experiment.variants if v.name in names)}
    kept = tuple(v for v in experiment.variants if not names or v.name in wanted)
    return dataclasses.replace(experiment, variants=kept)


def _as_file(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


def _call(*words: str) -> None:
    """Runs one of this package's commands in a process of its own, so that memory is given back after it.

    When this process is asked to end, so is that one, which may take its time to save what it has.
    """
    print("$ stylegan2-msp " + " ".join(words), flush=True)
    asked: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(signum: int, _: Any) -> None:
        asked.append(signum)
        for child in [] if REACHES_ALL else children:
            child.send_signal(signum)

    with asked_to_end(pass_on):
        children.append(child := subprocess.Popen([sys.executable, "-m", "stylegan2_msp", *words]))
        if asked and not REACHES_ALL:  # while it was being started
            child.send_signal(asked[0])
        code = child.wait()
    if asked:
        leave(asked[0])
    if code:
        raise UserError(
            f"reproduce: `{words[0]}` ended with exit code {code} (see above); run the same command again "
            "to go on from here"
        )
