"""Tables and figures over variants and seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stylegan2_msp.files import replacing
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.report.style import save_figure
from stylegan2_msp.study.drawing import comparison_figure, levels_figure
from stylegan2_msp.study.run import Study

Figure = Callable[[Results], float]
_ENOUGH = 20  # reals at a level; they tell a share to within about .2 (Wilson, 95 %), fewer worse


def _figure(name: str, on: str, of: str = "fakes") -> Figure:
    return lambda found: found.value(name, on, of=of)


def _worst_class(found: Results) -> float:
    """Lowest Spearman of a class on uniform levels; one whose answer never changes follows nothing and counts as 0."""
    own = [
        r.value for r in found.rows if (r.figure, r.of, r.on) == ("spearman", "fakes", "uniform") and r.cls is not None
    ]
    return min((0.0 if math.isnan(value) else value for value in own), default=math.nan)


def _gap(*names: str, on: str) -> Figure:
    """Largest distance between fakes and reals at any level that has enough reals, over these figures."""

    def largest(found: Results) -> float:
        gaps = [
            abs(fakes.value - reals.value)
            for name in names
            for fakes in found.levels(name, on)
            if (reals := found.find(name, on, of="reals", level=fakes.level)) and reals.count >= _ENOUGH
        ]
        return max((gap for gap in gaps if not math.isnan(gap)), default=math.nan)

    return largest


def _recall_of_levels(found: Results) -> float:
    values = [row.value for row in found.levels("recall", "matched") if not math.isnan(row.value)]
    return statistics.mean(values) if values else math.nan


COLUMNS: dict[str, Figure] = {
    "uniform MAE": _figure("mae", "uniform"),
    "uniform Spearman": _figure("spearman", "uniform"),
    "worst class's": _worst_class,
    "natural MAE": _figure("mae", "natural"),
    "class agreement, natural": _figure("class_agreement", "natural"),
    "of reals": _figure("class_agreement", "natural", "reals"),
    "uniform": _figure("class_agreement", "uniform"),
    "of reals, uniform": _figure("class_agreement", "uniform", "reals"),
    "largest gap at a level": _gap("class_agreement", on="matched"),
    "second classifier's Spearman": _figure("second_spearman", "uniform"),
    "on reals": _figure("second_spearman", "uniform", "reals"),
    "made per accepted image": _figure("cost", "uniform"),
    "monotonicity": _figure("monotonicity", "uniform"),
    "FID": _figure("fid", "natural"),
    "recall": _figure("recall", "natural"),
    "recall in levels": _recall_of_levels,
    "mix of corruptions, largest gap": _gap("share_none", "share_blur", "share_noise", on="matched"),
    "energy distance ratio": _figure("energy_ratio", "natural"),
}


def collect(study: Study) -> dict[str, dict[int, Results]]:
    """What was measured so far, by variant and seed."""
    found: dict[str, dict[int, Results]] = {}
    for variant, seed in study.rows():
        path = study.results(variant, seed)
        if variant.compared and path.is_file():
            found.setdefault(variant.name, {})[seed] = Results.read(path)
    return found


def summarise(study: Study, seconds: float) -> list[Path]:
    """Writes study.md, study.json, calibration.png and comparison.png into the study's folder.

    Args:
        seconds: wall time of this call, for the record.
    """
    found = collect(study)
    rows = {
        name: {heading: [figure(r) for r in seeds.values()] for heading, figure in COLUMNS.items()}
        for name, seeds in found.items()
    }
    files = [study.folder / name for name in ("study.md", "study.json", "calibration.png", "comparison.png")]
    about: dict[str, Any] = next((r.about for seeds in found.values() for r in seeds.values()), {})
    text = _markdown(study, rows, {name: sorted(seeds) for name, seeds in found.items()}, about, seconds)
    record = {"title": study.experiment.title, "scale": study.scale, "seconds": round(seconds), "about": about}
    with replacing(files[0]) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
    with replacing(files[1]) as temporary:
        Path(temporary).write_text(json.dumps({**record, "rows": _plain(rows)}, indent=2) + "\n", encoding="utf-8")
    if not found:
        return files[:2]
    curves = {
        variant: [[(row.level or 0.0, row.value) for row in r.levels("mean", "uniform")] for r in seeds.values()]
        for variant, seeds in found.items()
    }
    measures = {variant: next(iter(seeds.values())).about["uncertainty"] for variant, seeds in found.items()}
    save_figure(levels_figure(curves, measures), files[2])
    save_figure(comparison_figure(rows, measures), files[3])
    return files


def _markdown(
    study: Study,
    rows: dict[str, dict[str, list[float]]],
    seeds: dict[str, list[int]],
    about: dict[str, Any],
    seconds: float,
) -> str:
    shown = [name for name in COLUMNS if any(not math.isnan(v) for row in rows.values() for v in row[name])]
    lines = [
        f"# {study.experiment.title}",
        "",
        f"Mean ± standard deviation over the seeds; {about.get('items', 0)} items per distribution; "
        f"{study.experiment.kimg * study.scale:g} kimg each; {about.get('device', 'nothing measured yet')}, "
        f"torch {about.get('torch', '-')}; this call took {seconds / 60:.0f} min. "
        f"Largest gaps to reals: over the levels at which {_ENOUGH} or more reals lie. FID: of images on the second "
        "classifier's features, of points on their coordinates.",
        "",
        "| variant | seeds | " + " | ".join(shown) + " |",
        "| --- | --- |" + " ---: |" * len(shown),
    ]
    for name, row in rows.items():
        cells = [_mean(row[key]) for key in shown]
        lines.append(f"| {name} | {', '.join(map(str, seeds[name]))} | " + " | ".join(cells) + " |")
    lines += ["", "![Mean answer at each level](calibration.png)", "![Every seed](comparison.png)"]
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.3f}" if len(known) > 1 else ""
    part = f" ({len(known)} of {len(values)} seeds)" if len(known) < len(values) else ""
    return f"{statistics.mean(known):.3f}{spread}{part}"


def _plain(rows: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float | None]]]:
    return {
        name: {key: [None if math.isnan(v) else v for v in values] for key, values in row.items()}
        for name, row in rows.items()
    }
