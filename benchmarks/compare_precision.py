"""Whether bfloat16 costs quality: digits trained in float32 and in bfloat16 over several seeds, and measured alike.

    python benchmarks/compare_precision.py --work FOLDER --out benchmarks/results/precision-cpu.json

Each run: `dataset_tool.py digits --corrupt gaussian`, `train.py --kimg N --precision P --seed S`, `evaluate`. Runs that
are already in FOLDER are not made again.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))
import machine

from stylegan2_msp.metrics.results import Results

ROOT = Path(__file__).resolve().parents[1]
FIGURES = [("fid", "natural"), ("mae", "natural"), ("class_agreement", "natural"), ("mae", "uniform")]


def call(*words: str) -> None:
    """Runs one of the project's commands."""
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True)


def figures(work: Path, data: Path, precision: str, seed: int, kimg: float, images: int) -> dict[str, float]:
    """Trains and measures one run."""
    runs, found = work / f"{precision}-{seed}", work / f"{precision}-{seed}-evaluation"
    if not (found / "results.json").is_file():
        length = ["--kimg", str(kimg), "--tick", str(kimg / 4), "--metrics", "none", "--device", "cpu"]
        options = ["--cond-msp=1", "--precision", precision, "--seed", str(seed), "--outdir", str(runs)]
        call("scripts/train.py", "--data", str(data), *options, *length)
        size = ["--images", str(images), "--outdir", str(found), "--device", "cpu"]
        call("-m", "stylegan2_msp", "evaluate", "--network", str(runs), "--data", str(data), *size)
    results = Results.read(found / "results.json")
    return {f"{name} {on}": results.value(name, on) for name, on in FIGURES}


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON of the results.")
@click.option("--seeds", type=int, default=3, show_default=True)
@click.option("--kimg", type=float, default=20.0, show_default=True)
@click.option("--images", type=int, default=1500, show_default=True)
def main(work: Path, out: Path, seeds: int, kimg: float, images: int) -> None:
    """Train, measure, compare."""
    data = work.resolve() / "digits.zip"
    if not data.is_file():
        call("scripts/dataset_tool.py", "digits", "--corrupt", "gaussian", "--dest", str(data))
    runs: list[tuple[str, int, dict[str, float]]] = []
    for seed in range(seeds):
        for precision in ("fp32", "bf16"):
            found = figures(work.resolve(), data, precision, seed, kimg, images)
            runs.append((precision, seed, found))
            print(*runs[-1], flush=True)
    rows = [{"precision": precision, "seed": seed, **found} for precision, seed, found in runs]
    for name, on in FIGURES:
        values = {p: [found[f"{name} {on}"] for q, _, found in runs if q == p] for p in ("fp32", "bf16")}
        deviation = statistics.stdev if seeds > 1 else lambda _: 0.0
        spread = {p: f"{statistics.mean(v):.4f} ± {deviation(v):.4f}" for p, v in values.items()}
        print(f"{name} {on}: fp32 {spread['fp32']}, bf16 {spread['bf16']}")
    machine.save({"benchmark": "precision", "command": sys.argv[1:], "kimg": kimg, "images": images, "rows": rows}, out)


if __name__ == "__main__":
    main()
