"""`report` and `evaluate`: a snapshot measured, and everything found written as figures, JSON, CSV and a table."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylegan2_msp.agreement import archive_agreement
from stylegan2_msp.data.archive import Archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import make_folder, replacing
from stylegan2_msp.generation import ConditionalGenerator, Within
from stylegan2_msp.metrics.asking import NUM_LEVELS
from stylegan2_msp.metrics.evaluate import Evaluation, Evaluator, RealData
from stylegan2_msp.metrics.inception import inception_features
from stylegan2_msp.metrics.judges import Judges, make_judges
from stylegan2_msp.metrics.quality import check_torchmetrics
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.report.curves import fig2b_levels, fig4_in_out, training_curves
from stylegan2_msp.report.evaluation import evaluation_figures
from stylegan2_msp.report.generated import make_plan, picture_of
from stylegan2_msp.report.points import fig2a_points
from stylegan2_msp.report.style import save_figure
from stylegan2_msp.report.subject import class_only, fitting_archive, load_conditional
from stylegan2_msp.report.table import markdown_table
from stylegan2_msp.report.training import fakes_plan
from stylegan2_msp.search import Search

FEATURES = ("second", "inception", "none")
_SCATTER_POINTS = 2000
_DRAWS = 40  # of the row that stands beside the network as trained


@dataclass(frozen=True)
class Report:
    """What was found and written: the table of figures, the files, and what could not be done."""

    results: Results
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
    """A quick look at a run's newest snapshot: how u in and u out agree, the paper's pictures, the training curves.

    Args:
        run: run folder or snapshot.
        outdir: where to write.
        data: archive with the natural labels; by default the one the run was trained on, if it is still there.
        n: items generated for the natural and again for the uniform distribution.
        seed: seed of every random number.
        batch: items per pass.

    Raises:
        UserError: no snapshot, no classifier or no uncertainty condition in it, or the folder cannot be written.
    """
    begin = time.monotonic()
    generator = load_conditional(run, device)
    notes: list[str] = []
    archive = fitting_archive(generator, data, notes)
    notes += _missing_classes(generator, n)
    folder = make_folder(outdir)
    real = None if archive is None else RealData(archive)
    found = Evaluator(generator, n, seed, batch, real, results=Results(_about(generator, archive, n, seed))).run()
    figures = _condition_figures(generator, found)
    if generator.kind == "images":
        figures["fig3_grid"] = picture_of(generator, make_plan(generator, range(16), None, None), batch)
        figures["levels_grid"] = picture_of(generator, fakes_plan(generator), batch)
    elif real is not None:
        figures["fig2a_points"] = _fig2a(generator, found, real)
    records = _records(generator.snapshot.path.parent, notes)
    if records:
        figures["training_curves"] = training_curves(records)
    return _write(folder, figures, found.results, begin, notes)


def evaluate_network(
    network: str | Path,
    data: str | Path,
    outdir: str | Path,
    n: int = 10_000,
    seed: int = 0,
    device: str = "auto",
    batch: int = 128,
    features: str = "second",
    baseline: str | Path | None = None,
    within: float | None = None,
    draws: int | None = None,
    steady: bool = False,
    truncation_psi: float = 1.0,
) -> Report:
    """The whole evaluation of a snapshot.

    Args:
        network: snapshot or folder.
        data: the archive that it was trained on.
        outdir: where to write.
        n: items of each of three distributions of labels (see `metrics.asking`).
        seed: seed of every random number.
        batch: items per pass.
        features: of which quality is measured: those of the 'second' classifier, 'inception', or 'none'.
        baseline: snapshot of a class-only network, for rejection sampling.
        within, draws, steady: how fakes come near the levels asked for (as of `ConditionalGenerator.sample`); by
            default G is given them, and ``draws`` alone is within 0.05; beside the baselines stand then fakes whose
            levels were searched, and others for which latents were drawn. Where the snapshot does not say how often
            reals are named as their class, the data do.
        truncation_psi: of the fakes, those of ``baseline`` left alone.

    Raises:
        UserError: something given does not fit; nothing has been written.
        ValueError: as `Evaluator`.
    """
    begin = time.monotonic()
    if features not in FEATURES:
        raise UserError(f"--features {features}: is not one of {', '.join(FEATURES)}; choose one")
    if features != "none":
        check_torchmetrics()
    generator = load_conditional(network, device)
    near: Within = "auto" if within is None and draws is not None else within
    generator.search(near, draws, steady)
    notes: list[str] = []
    archive = fitting_archive(generator, data, notes)
    assert archive is not None
    notes += _missing_classes(generator, n)
    generator.agreement = generator.agreement or archive_agreement(archive)
    search = generator.search(near, draws, steady)
    other = None if baseline is None else class_only(baseline, generator)
    if features == "inception" and generator.kind == "points":
        raise UserError("--features inception: the data are 2-D points; leave it out")
    extractor = inception_features(generator.device) if features == "inception" else None
    folder = make_folder(outdir)
    real = RealData(archive)
    judges = make_judges(archive, real.data, generator.measure, generator.device)
    about = _about(generator, archive, n, seed) | _about_judges(judges, _looked_at(generator, features), other)
    if truncation_psi != 1:
        about["truncation_psi"] = truncation_psi
    if search is not None:
        about |= {"searched_within": search.within, "draws": search.draws, "steady": search.steady}
    found = Evaluator(
        generator,
        n,
        seed,
        batch,
        real,
        judges,
        features=extractor,
        quality=features != "none",
        baseline=other,
        search=search,
        ways=_ways(generator) if search is None else {},
        truncation_psi=truncation_psi,
        results=Results(about),
    ).run()
    if other is None:
        notes.append("no --baseline: nothing is said of rejection sampling from a class-only generator")
    figures = _condition_figures(generator, found) | evaluation_figures(found, generator)
    if generator.kind == "points":
        figures["fig2a_points"] = _fig2a(generator, found, real)
    return _write(folder, figures, found.results, begin, notes)


def _ways(generator: ConditionalGenerator) -> dict[str, Search]:
    """How else `generate` comes near a level: as by default, and with draws; none where it cannot."""
    searched = generator.search("auto")
    drawn = None if searched is None else generator.search("auto", _DRAWS)
    return {name: search for name, search in (("searched", searched), ("drawn", drawn)) if search is not None}


def _condition_figures(generator: ConditionalGenerator, found: Evaluation) -> dict[str, Any]:
    """Fig. 4 for every distribution of labels, and Fig. 2b."""
    title, figures = generator.measure.title, {}
    for on, name in (("uniform", "fig4_in_out"), ("natural", "fig4_natural")):
        if on in found.items:
            items, rho, error = found.items[on], *(found.results.value(f, on) for f in ("spearman", "mae"))
            shown = "undefined" if np.isnan(rho) else f"{rho:.2f}"
            heading = f"{on.capitalize()} {title}: Spearman {shown}, MAE {error:.3f}"
            figures[name] = fig4_in_out(items.asked, items.answered, heading, measure=title)
    uniform = found.items["uniform"]
    figures["fig2b_levels"] = fig2b_levels(uniform.asked, uniform.answered, measure=title)
    return figures


def _fig2a(generator: ConditionalGenerator, found: Evaluation, real: RealData) -> Any:
    rows = np.random.default_rng(0).permutation(len(real.archive))[:_SCATTER_POINTS]
    fakes = found.items["natural"].take(np.arange(min(_SCATTER_POINTS, len(found.items["natural"]))))
    assert real.archive.classes is not None
    shown = (real.data[rows], real.archive.classes[rows], real.archive.levels()[rows])
    assert fakes.features is not None  # of points their coordinates
    return fig2a_points(shown, (fakes.features, fakes.classes, fakes.asked), generator.class_names, generator.measure)


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


def _about(generator: ConditionalGenerator, archive: Archive | None, n: int, seed: int) -> dict[str, Any]:
    """What was measured, with what and where."""
    path, info = generator.snapshot.path, generator.snapshot.info
    gpu = torch.cuda.get_device_name(generator.device) if generator.device.type == "cuda" else None
    return {
        "snapshot": path.name,
        "run": path.parent.name,
        "kimg": info.get("kimg"),
        "data": archive.path.name if archive is not None else (info.get("data") or {}).get("name"),
        "uncertainty": generator.measure.title,
        "class_names": generator.class_names,
        "items": n,
        "seed": seed,
        "device": gpu or f"CPU ({platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads)",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _missing_classes(generator: ConditionalGenerator, n: int) -> list[str]:
    """What is to be said where so few items cannot be of every class at every level."""
    asked, K = max(n // NUM_LEVELS, 1), generator.num_classes
    few = f"{n} items are of {asked} of the {K} classes on the uniform grid; ask for {NUM_LEVELS * K} or more"
    return [few] if asked < K else []


def _looked_at(generator: ConditionalGenerator, features: str) -> str:
    """What quality is measured of; of points it is where they lie, whatever a classifier makes of them."""
    return "coordinates" if generator.kind == "points" and features == "second" else features


def _about_judges(judges: Judges, features: str, baseline: ConditionalGenerator | None) -> dict[str, Any]:
    def of(judge: Any) -> dict[str, Any] | None:
        report = {} if judge is None else judge.spec.report
        return None if judge is None else {"architecture": judge.spec.arch} | report

    return {
        "second": of(judges.second),
        "probe": of(judges.probe),
        "features": features,
        "baseline": None if baseline is None else baseline.snapshot.path.name,
    }


def _write(folder: Path, figures: dict[str, Any], results: Results, begin: float, notes: list[str]) -> Report:
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        save_figure(figure, files[-1])
    results.about["seconds"] = round(time.monotonic() - begin, 1)
    texts = {
        "results.csv": results.to_csv(),
        "results.md": markdown_table(results),
        "results.json": results.to_json(),  # last: where it lies, all is there
    }
    for name, text in texts.items():
        files.append(folder / name)
        with replacing(files[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # names that are no UTF-8
    return Report(results, files, notes)
