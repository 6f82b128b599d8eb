"""Tables and a figure over variants and seeds."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from stylegan2_msp.files import replacing
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.report.style import CYCLE, identity_line, new_figure, save_figure, styled
from stylegan2_msp.study.run import Study

# Figure, distribution, whose items, heading.
COLUMNS = (
    ("mae", "uniform", "fakes", "uniform MAE"),
    ("spearman", "uniform", "fakes", "uniform Spearman"),
    ("class_agreement", "uniform", "fakes", "uniform agreement"),
    ("class_agreement", "uniform", "reals", "(reals)"),
    ("mae", "natural", "fakes", "natural MAE"),
    ("class_agreement", "natural", "fakes", "natural agreement"),
    ("class_agreement", "natural", "reals", "(reals)"),
    ("second_spearman", "uniform", "fakes", "second classifier's Spearman"),
    ("monotonicity", "uniform", "fakes", "monotonicity"),
    ("fid", "natural", "fakes", "FID (second classifier)"),
    ("recall", "natural", "fakes", "recall"),
    ("energy_ratio", "natural", "fakes", "energy distance ratio"),
)


def collect(study: Study) -> dict[str, dict[int, Results]]:
    """What was measured so far, by variant and seed."""
    found: dict[str, dict[int, Results]] = {}
    for variant, seed in study.rows():
        path = study.results(variant, seed)
        if variant.compared and path.is_file():
            found.setdefault(variant.name, {})[seed] = Results.read(path)
    return found


def summarise(study: Study, seconds: float) -> list[Path]:
    """Writes study.md, study.json and calibration.png into the study's folder.

    Args:
        seconds: wall time of this call, for the record.
    """
    found = collect(study)
    rows = {
        name: {heading: [r.value(figure, on, of=of) for r in seeds.values()] for figure, on, of, heading in _keys()}
        for name, seeds in found.items()
    }
    files = [study.folder / name for name in ("study.md", "study.json", "calibration.png")]
    about: dict[str, Any] = next((r.about for seeds in found.values() for r in seeds.values()), {})
    text = _markdown(study, rows, {name: sorted(seeds) for name, seeds in found.items()}, about, seconds)
    record = {"title": study.experiment.title, "scale": study.scale, "seconds": round(seconds), "about": about}
    with replacing(files[0]) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
    with replacing(files[1]) as temporary:
        Path(temporary).write_text(json.dumps({**record, "rows": _plain(rows)}, indent=2) + "\n", encoding="utf-8")
    if not found:
        return files[:2]
    _draw(found, about, files[2])
    return files


def _keys() -> list[tuple[str, str, str, str]]:
    """Columns with headings that differ: 'reals' stands beside two of them."""
    return [(f, on, of, f"{heading} {on}" if of == "reals" else heading) for f, on, of, heading in COLUMNS]


def _markdown(
    study: Study,
    rows: dict[str, dict[str, list[float]]],
    seeds: dict[str, list[int]],
    about: dict[str, Any],
    seconds: float,
) -> str:
    shown = [
        (key, heading)
        for (_, _, _, key), (_, _, _, heading) in zip(_keys(), COLUMNS, strict=True)
        if any(not math.isnan(v) for row in rows.values() for v in row[key])
    ]
    lines = [
        f"# {study.experiment.title}",
        "",
        f"Mean ± standard deviation over the seeds; {about.get('items', 0)} items per distribution; "
        f"{study.experiment.kimg * study.scale:g} kimg each; {about.get('device', 'nothing measured yet')}, "
        f"torch {about.get('torch', '-')}; this call took {seconds / 60:.0f} min.",
        "",
        "| variant | seeds | " + " | ".join(heading for _, heading in shown) + " |",
        "| --- | --- |" + " ---: |" * len(shown),
    ]
    for name, row in rows.items():
        cells = [_mean(row[key]) for key, _ in shown]
        lines.append(f"| {name} | {', '.join(map(str, seeds[name]))} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n![Mean answer at each level](calibration.png)\n"


def _mean(values: list[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.3f}{spread}"


def _plain(rows: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float | None]]]:
    return {
        name: {key: [None if math.isnan(v) else v for v in values] for key, values in row.items()}
        for name, row in rows.items()
    }


def _draw(found: dict[str, dict[int, Results]], about: dict[str, Any], path: Path) -> None:
    """Mean answer at each level asked for: one line per variant, thin lines for its seeds."""
    name = about["uncertainty"]
    with styled():
        figure = new_figure(6.5, 5.2)
        axes = figure.subplots()
        levels: list[float] = []
        for i, (variant, seeds) in enumerate(found.items()):
            curves = [[(row.level or 0.0, row.value) for row in r.levels("mean", "uniform")] for r in seeds.values()]
            for k, curve in enumerate(curves):
                axes.plot(*zip(*curve, strict=True), "-", color=CYCLE[i % len(CYCLE)], linewidth=1.6, alpha=0.75,
                          label=variant if k == 0 else None)  # fmt: skip
                levels += [level for level, _ in curve]
        if levels:
            identity_line(axes, min(levels), max(levels))
        axes.set_xlabel(f"{name} asked for")
        axes.set_ylabel(f"mean {name} of the classifier's answers")
        axes.set_title("Uniform levels, every class; one line per seed")
        axes.legend()
    save_figure(figure, path)
