"""Draws what bench_step.py or bench_ops.py wrote.

python benchmarks/draw.py benchmarks/results/step-cpu-zen4.json docs/results/step-cpu.png
python benchmarks/draw.py benchmarks/results/ops-cpu.json docs/results/ops-cpu.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure

from stylegan2_msp.report.style import BLUE, CYCLE, GREEN, INK, ORANGE, VERMILION, new_figure, save_figure, styled

# Wanted ratios of whole iterations to the reference's: on a CPU by configuration, on a GPU of all.
STEP_TARGETS = {("small", "fp32"): 1.6, ("small", "bf16"): 3.0, ("narrow", "bf16"): 3.0}
STEP_TARGET_GPU = 2.0
# Wanted share of the copy bandwidth on a GPU, by the operator's first word.
COPY_TARGETS = {"bias_act": 0.85, "upfirdn2d": 0.6}
PHASES = {"step": "whole iteration", "Gmain": "G", "Greg": "path length", "Dmain": "D", "Dreg": "R1"}
MODES = {"forward": "forward", "backward": "and backward", "double": "and double backward"}
HEIGHT = 0.34  # inches of one row of dots


def draw_step(results: dict[str, Any]) -> Figure:
    """Ratio to the reference of each phase and of whole iterations, a group of bars for each configuration."""
    rows = [row for row in results["rows"] if "ratio" in row]
    if not rows:
        raise click.ClickException("no row was timed beside the reference; run bench_step.py with --reference")
    phases = [phase for phase in PHASES if any(phase in row["ratio"] for row in rows)]
    gpu = rows[0].get("device") == "cuda"
    figure = new_figure(width=2.2 + 1.9 * len(rows), height=4.2)
    panel, width = figure.subplots(), 0.8 / len(phases)
    for i, (phase, colour) in enumerate(zip(phases, CYCLE, strict=False)):
        known = [at for at, row in enumerate(rows) if phase in row["ratio"]]
        places = [at + (i + 0.5) * width - 0.4 for at in known]
        bars = panel.bar(places, [rows[at]["ratio"][phase] for at in known], 0.9 * width, color=colour)
        bars.set_label(PHASES[phase])
        panel.bar_label(bars, fmt="%.2f", fontsize=9, padding=2, bbox={"fc": "white", "ec": "none", "pad": 0.5})
    wanted = [STEP_TARGET_GPU if gpu else STEP_TARGETS.get((row["config"], row["precision"])) for row in rows]
    spots = [(at, value) for at, value in enumerate(wanted) if value is not None]
    for n, (at, value) in enumerate(spots):
        panel.hlines(value, at - 0.45, at + 0.45, color=INK, ls="--", label="_" if n else "wanted of iterations")
    panel.axhline(1, color=INK, lw=1)
    panel.set_xticks(range(len(rows)), [_setting(row) for row in rows])
    panel.set_ylabel("reference's time / ours")
    panel.set_title(f"One training step beside the reference, {_machine(results)}", loc="left", fontsize=12)
    figure.legend(loc="outside lower center", ncols=len(phases) + 1)
    return figure


def draw_ops(results: dict[str, Any]) -> Figure:
    """Each operator's ratio to the reference and, of forward passes, the share of the copy bandwidth."""
    cases = list(dict.fromkeys((r["operator"], r["size"], r["dtype"], r["layout"]) for r in results["rows"]))
    cases.sort(key=lambda case: (case[3], case[1], case[2]))
    figure = new_figure(width=12.5, height=1.6 + HEIGHT * len(cases))
    ratios, shares = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
    for mode, colour, marker in zip(MODES, (BLUE, ORANGE, GREEN), "osD", strict=True):
        dots = [
            (r["ratio"]["reference"], cases.index((r["operator"], r["size"], r["dtype"], r["layout"])))
            for r in results["rows"]
            if r["mode"] == mode and "reference" in r["ratio"]
        ]
        if dots:
            ratios.plot(*zip(*dots, strict=True), marker, color=colour, label=MODES[mode])
    ratios.axvline(1, color=INK, lw=1)
    ratios.set_xscale("log", base=2)
    low, high = ratios.get_xlim()
    ticks = [2.0**k for k in range(-2, 8) if low <= 2.0**k <= high]
    ratios.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ratios.minorticks_off()
    ratios.set_xlabel("reference's time / ours")
    ratios.legend(loc="upper right")
    several = len({case[1:3] for case in cases}) > 1
    names = [f"{name}, {layout}{f', {size} {dtype}' if several else ''}" for name, size, dtype, layout in cases]
    ratios.set_yticks(range(len(cases)), names)
    ratios.invert_yaxis()
    for r in results["rows"]:
        if r["bytes_per_second"]:
            at = cases.index((r["operator"], r["size"], r["dtype"], r["layout"]))
            shares.barh(at, r["bytes_per_second"] / results["copy_bandwidth"], 0.6, color=BLUE)
            wanted = COPY_TARGETS.get(r["operator"].split()[0]) if results["machine"]["gpu"] else None
            if wanted is not None:
                shares.vlines(wanted, at - 0.45, at + 0.45, color=VERMILION)
    shares.axvline(1, color=INK, lw=1)
    shares.set_xlabel("forward: share of the copy bandwidth")
    sizes = ", ".join(f"{dtype} {results['sizes'][size]}" for size, dtype in dict.fromkeys(case[1:3] for case in cases))
    about = f"{sizes}, {_machine(results)}, copy {results['copy_bandwidth'] / 1e9:.0f} GB/s"
    figure.suptitle(f"Operators beside the reference's, {about}", x=0.01, ha="left", fontsize=12)
    return figure


def _setting(row: dict[str, Any]) -> str:
    size = f"{row['img_resolution']}x{row['img_resolution']}, {row['channel_base']}/{row['channel_max']}"
    more = [*([f"ADA p={row['ada_p']:g}"] if row["ada_p"] else []), *(["path length"] if row["path_length"] else [])]
    return "\n".join([size, ", ".join([row["precision"], *more])])


def _machine(results: dict[str, Any]) -> str:
    about = results["machine"]
    return about["gpu"] or f"{about['cores']} cores of {about['cpu']}"


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("dest", type=click.Path(path_type=Path))
def main(source: Path, dest: Path) -> None:
    """Draw the results SOURCE (JSON) into DEST (PNG, PDF or SVG)."""
    results = json.loads(source.read_text(encoding="utf-8"))
    with styled():
        save_figure(draw_step(results) if results.get("benchmark") == "step" else draw_ops(results), dest)
    print(dest)


if __name__ == "__main__":
    main()
