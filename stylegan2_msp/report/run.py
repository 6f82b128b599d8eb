"""The report of a finished run: the paper's figures, and the figures of merit as JSON and as a table."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylegan2_msp.data.archive import Archive, open_archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import make_folder, replacing
from stylegan2_msp.generation import ConditionalGenerator, find_snapshot, load_generator
from stylegan2_msp.metrics.condition import (
    Answers,
    bias,
    bootstrap_interval,
    class_agreement,
    collect_answers,
    mae,
    natural_labels,
    per_level,
    spearman,
    uniform_labels,
    uniform_levels,
)
from stylegan2_msp.report.curves import fig2b_levels, fig4_in_out, training_curves
from stylegan2_msp.report.generated import make_plan, picture_of
from stylegan2_msp.report.points import fig2a_points
from stylegan2_msp.report.style import save_figure
from stylegan2_msp.report.table import markdown_table
from stylegan2_msp.report.training import fakes_plan

_SCATTER_POINTS = 2000


@dataclass(frozen=True)
class Report:
    """What `report_run` found and wrote: the figures of merit, the files, and what could not be done."""

    results: dict[str, Any]
    files: list[Path]
    notes: list[str]


def report_run(
    run: str | Path,
    outdir: str | Path,
    data: str | Path | None = None,
    n: int = 2000,
    seed: int = 0,
    device: str = "auto",
    batch: int = 128,
) -> Report:
    """Measures a run's newest snapshot and writes figures, results.json and results.md.

    Args:
        run: run folder or snapshot.
        outdir: where to write.
        data: archive with the natural labels; by default the one the run was trained on, if it is still there.
        n: items generated for the natural and again for the uniform distribution.
        seed: seed of every random number.
        batch: items per pass.

    Raises:
        UserError: no snapshot, no classifier or no MSP condition in it, or the folder cannot be written.
    """
    begin = time.monotonic()
    path = find_snapshot(run)
    generator = load_generator(path, device)
    if generator.classifier is None or not generator.takes_u:
        raise UserError(f"{path}: was trained without MSP, there is nothing to compare; report a --cond-msp=1 run")
    notes: list[str] = []
    archive = _archive(generator, data, notes)
    folder = make_folder(outdir)
    rng = torch.Generator().manual_seed(seed)
    K, measure = generator.num_classes, generator.measure
    labels = uniform_labels(K, uniform_levels(K, measure=measure), n, rng, measure)
    uniform = collect_answers(generator.G, generator.classifier, labels, rng, batch)
    results: dict[str, Any] = {
        "snapshot": path.name,
        "run": path.parent.name,
        "kimg": generator.snapshot.info.get("kimg"),
        "data": (generator.snapshot.info.get("data") or {}).get("name"),
        "seed": seed,
        "uncertainty": measure.title,
        "uniform": _figures(uniform, seed) | {"per_level": [asdict(row) for row in per_level(*_in_out(uniform))]},
    }
    title = _title(f"Uniform {measure.title}", results["uniform"])
    figures = {"fig4_in_out": fig4_in_out(*_in_out(uniform), title, measure=measure.title)}
    if archive is not None:
        labels = natural_labels(torch.from_numpy(archive.labels()), n, rng)
        natural = collect_answers(generator.G, generator.classifier, labels, rng, batch)
        results["natural"] = _figures(natural, seed)
        results["reals"] = _reals(archive)
        title = _title(f"Natural {measure.title}", results["natural"])
        figures["fig4_natural"] = fig4_in_out(*_in_out(natural), title, measure=measure.title)
    figures |= _pictures(generator, archive, uniform, rng, batch)
    records = _records(path.parent, notes)
    if records:
        figures["training_curves"] = training_curves(records)
    results["machine"] = _machine(generator)
    results["seconds"] = round(time.monotonic() - begin, 1)
    return Report(results, _write(folder, figures, results), notes)


def _pictures(
    generator: ConditionalGenerator, archive: Archive | None, uniform: Answers, rng: torch.Generator, batch: int
) -> dict[str, Any]:
    """Images: Fig. 3 and the grid of all levels; points: Fig. 2b, and Fig. 2a where the real points are at hand."""
    if generator.kind == "images":
        return {
            "fig3_grid": picture_of(generator, make_plan(generator, range(16), None, None), batch),
            "levels_grid": picture_of(generator, fakes_plan(generator), batch),
        }
    figures = {"fig2b_levels": fig2b_levels(*_in_out(uniform), measure=generator.measure.title)}
    if archive is not None:
        figures["fig2a_points"] = _fig2a(generator, archive, rng)
    return figures


def _figures(answers: Answers, seed: int) -> dict[str, Any]:
    """Figures of one distribution with 95 % bootstrap intervals, overall and per class; None where undefined."""
    u, v = _in_out(answers)
    per_class = []
    for cls in np.unique(answers.classes):
        rows = answers.classes == cls
        agree = class_agreement(answers.classes[rows], answers.predictions[rows])
        per_class.append(
            {
                "class": int(cls),
                "count": int(rows.sum()),
                "spearman": _known(spearman(u[rows], v[rows])),
                "mae": mae(u[rows], v[rows]),
                "class_agreement": agree,
            }
        )
    return {
        "count": len(u),
        "spearman": _known(answers.spearman),
        "spearman_95": [_known(x) for x in bootstrap_interval(spearman, u, v, seed)],
        "mae": answers.mae,
        "mae_95": list(bootstrap_interval(mae, u, v, seed)),
        "bias": bias(u, v),
        "class_agreement": answers.class_agreement,
        "per_class": per_class,
    }


def _reals(archive: Archive) -> dict[str, Any]:
    """How often the classifier's answer on the real data is their class, by the archive's own record."""
    agreement = None
    if archive.probs is not None and archive.classes is not None:
        agreement = class_agreement(archive.classes, archive.probs.argmax(axis=1))
    u = archive.levels()
    return {
        "count": len(archive),
        "class_agreement": agreement,
        "msp_quantiles": {f"{q:g}": float(np.quantile(u, q)) for q in (0.01, 0.05, 0.1, 0.25, 0.5)},
    }


def _archive(generator: ConditionalGenerator, data: str | Path | None, notes: list[str]) -> Archive | None:
    """The archive of the natural labels, or None with a note why not."""
    info = generator.snapshot.info
    trained_on = (info.get("config") or {}).get("data")
    if data is None:
        if trained_on is None or not Path(trained_on).exists():
            notes.append(f"the run's data ({trained_on}) are not here: no figures on natural MSP; give --data")
            return None
        data = str(trained_on)
    archive = open_archive(data)
    if archive.num_classes != generator.num_classes or archive.kind != generator.kind or not archive.annotated:
        raise UserError(
            f"{archive.path}: holds {archive.kind} of {archive.num_classes} classes"
            f"{'' if archive.annotated else ' without MSP'}, the snapshot wants annotated {generator.kind} of "
            f"{generator.num_classes}; give the run's own data with --data"
        )
    if archive.uncertainty != generator.measure.name:
        raise UserError(
            f"{archive.path}: is annotated with {archive.uncertainty}, the snapshot wants {generator.measure.name}; "
            "give the run's own data with --data"
        )
    if archive.content_sha256 != (info.get("data") or {}).get("sha256"):
        notes.append(f"{archive.path} is not the data that the run was trained on")
    return archive


def _fig2a(generator: ConditionalGenerator, archive: Archive, rng: torch.Generator) -> Any:
    labels = archive.labels()
    count = min(len(archive), _SCATTER_POINTS)
    rows = torch.randperm(len(archive), generator=rng)[:count].numpy()
    K = generator.num_classes
    xy = archive.load_points()
    classes, u = labels[:, :K].argmax(axis=1), archive.levels()
    picked = torch.randint(len(archive), (count,), generator=rng).numpy()
    asked = labels[picked, K:] if labels.shape[1] > K + 1 else u[picked]
    fakes = generator.sample(classes[picked].tolist(), seeds=list(range(count)), batch=1024, uncertainty=asked)
    real, fake = (xy[rows], classes[rows], u[rows]), (fakes.cpu().numpy(), classes[picked], u[picked])
    return fig2a_points(real, fake, generator.class_names, generator.measure)


def _records(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    try:
        lines = (folder / "stats.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        notes.append(f"{folder / 'stats.jsonl'}: is missing; no training curves")
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line that was cut off
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _write(folder: Path, figures: dict[str, Any], results: dict[str, Any]) -> list[Path]:
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        save_figure(figure, files[-1])
    texts = {"results.json": json.dumps(results, indent=2) + "\n", "results.md": markdown_table(results)}
    for name, text in texts.items():
        files.append(folder / name)
        with replacing(files[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return files


def _machine(generator: ConditionalGenerator) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(generator.device) if generator.device.type == "cuda" else None
    return {
        "device": gpu or f"CPU ({platform.machine()}, {os.cpu_count()} cores)",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _in_out(answers: Answers) -> tuple[Any, Any]:
    return answers.msp_in, answers.msp_out


def _title(name: str, figures: dict[str, Any]) -> str:
    rho = figures["spearman"]
    return f"{name}: Spearman {'undefined' if rho is None else f'{rho:.2f}'}, MAE {figures['mae']:.3f}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
