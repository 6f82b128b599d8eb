"""How the cost of a training step grows with resolution, batch, channels and processes, beside the physical limit.

    python benchmarks/bench_scaling.py --out benchmarks/results/scaling-cpu.json --figure docs/results/scaling-cpu.png

The limit is the machine's measured matrix peak: no step can be quicker than its convolutions and products at that rate.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import bench_step
import machine
from ours import CONFIGS

from stylegan2_msp.device import keep_freed_memory
from stylegan2_msp.report.style import BLUE, ORANGE, new_figure, save_figure, styled

# Each axis starts from 32x32x1, 1024/64, batch 32, and moves one thing.
AXES: dict[str, list[tuple[float, dict[str, Any]]]] = {
    "resolution": [(32, {}), (64, {"res": 64}), (128, {"res": 128}), (256, {"res": 256})],
    "batch": [(8, {"batch": 8}), (16, {"batch": 16}), (32, {}), (64, {"batch": 64})],
    "channels": [(c, {"max": c, "base": 32 * c}) for c in (16, 32, 64, 128)],
}
UNITS = {"resolution": "pixels", "batch": "images", "channels": "at every resolution", "processes": ""}


def measure(change: dict[str, Any], rounds: int, device: torch.device, precision: str) -> dict[str, Any]:
    """One point of an axis."""
    CONFIGS["point"] = {**CONFIGS["tiny"], **change}
    row = bench_step.bench("point", precision, 0.0, False, None, rounds, None, device)
    ours = row["ours"]
    return {
        "sec_per_kimg": ours["sec_per_kimg"],
        "gflop_per_image": ours["gflop_per_image"],
        "matrix_peak_gflops": ours["matrix_peak_gflops"],
    }


def processes(count: int, seconds: float) -> dict[str, Any]:
    """Speed of `count` processes that train on a batch of 32 / count each, one thread each, without an exchange.

    The exchange of gradients is left to the training itself; this shows what the cores give.
    """
    code = (
        "import sys, time, torch; torch.set_num_threads(1); sys.path.insert(0, 'benchmarks'); import ours;"
        f"s = ours.make_setting('tiny', torch.device('cpu'), 0.0, False, {32 // count});"
        "o = ours.OurTrainer(s, s['samples'], torch.device('cpu'), 'fp32'); o.step(); n = 0; t = time.perf_counter();\n"
        f"while time.perf_counter() - t < {seconds}: o.step(); n += 1\n"
        "print(n, time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(count)]
    answers = [worker.communicate()[0].split() for worker in started]
    speed = sum(int(n) * (32 // count) / float(spent) for n, spent in answers)
    return {"sec_per_kimg": 1000 / speed}


def add_limits(axes: dict[str, list[dict[str, Any]]]) -> None:
    """Adds seconds per 1,000 images at the best matrix peak that was seen on the way."""
    rows = [row for found in axes.values() for row in found if "gflop_per_image" in row]
    peak = max((row["matrix_peak_gflops"] for row in rows), default=0.0)
    for row in rows:
        row["limit_sec_per_kimg"] = 1000 * row["gflop_per_image"] / peak


def draw(axes: dict[str, list[dict[str, Any]]], figure: Path) -> None:
    """One panel for each axis, log-log, with the limit as a dashed line."""
    with styled():
        fig = new_figure(width=4.0 * len(axes), height=3.8)
        for panel, (axis, rows) in zip(fig.subplots(1, len(axes), squeeze=False)[0], axes.items(), strict=True):
            x = [row["value"] for row in rows]
            panel.loglog(x, [row["sec_per_kimg"] for row in rows], "o-", color=BLUE, label="measured")
            if "limit_sec_per_kimg" in rows[0]:
                limit = [row["limit_sec_per_kimg"] for row in rows]
                panel.loglog(x, limit, "--", color=ORANGE, label="limit: matrix peak")
            panel.set_xticks(x, [f"{value:g}" for value in x])
            heights = [row[key] for row in rows for key in ("sec_per_kimg", "limit_sec_per_kimg") if key in row]
            low, high = min(heights) / 2, max(heights) * 2
            panel.set_ylim(low, high)
            ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
            panel.set_yticks(ticks, [f"{t:g}" for t in ticks])
            panel.minorticks_off()
            panel.set_xlabel(f"{axis} ({UNITS[axis]})" if UNITS[axis] else axis)
            panel.set_ylabel("seconds per 1,000 images")
            panel.legend()
    save_figure(fig, figure)


@click.command()
@click.option("--axis", "chosen", multiple=True, type=click.Choice([*AXES, "processes"]), help="[default: all]")
@click.option("--rounds", type=int, default=1, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON of the results.")
@click.option("--figure", type=click.Path(path_type=Path), help="PNG of the curves.")
def main(chosen: tuple[str, ...], rounds: int, precision: str, device: str, out: Path, figure: Path | None) -> None:
    """Measure the axes."""
    found: dict[str, list[dict[str, Any]]] = {}
    if device == "cpu":
        keep_freed_memory()
    start = time.perf_counter()
    for axis in chosen or (*AXES, "processes"):
        rows = []
        points = [(1, {}), (2, {})] if axis == "processes" else AXES[axis]
        for value, change in points:
            if axis == "processes":
                row = processes(int(value), 10)
            else:
                row = measure(change, rounds, torch.device(device), precision)
            rows.append({"value": value, **row})
            print(
                f"{time.perf_counter() - start:5.0f} s  {axis} {value:g}: {row['sec_per_kimg']:.2f} s/kimg", flush=True
            )
        found[axis] = rows
    add_limits(found)
    machine.save(
        {"benchmark": "scaling", "command": sys.argv[1:], "threads": torch.get_num_threads(), "axes": found}, out
    )
    if figure is not None:
        draw(found, figure)


if __name__ == "__main__":
    main()
