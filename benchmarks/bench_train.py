"""Trains by this package and by a patched stylegan2-ada-pytorch checkout, and measures both networks.

    python benchmarks/bench_train.py --reference CHECKOUT --data mnistc.zip --kimg 40 --out train.json

Both get the sizes, batch, rates and augmentation of our preset `tiny` and the same options of the condition. The
checkout runs in its own loop, in a patched copy; without a GPU its devices are stood for by the CPU. One trains after
the other with the whole machine, then `evaluate` measures both.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import machine

from stylegan2_msp.metrics.results import Results
from stylegan2_msp.presets import PRESETS, resolve_preset
from stylegan2_msp.upstream.patching import our_patches, patch_checkout

ROOT = Path(__file__).resolve().parents[1]
OURS = [sys.executable, "-m", "stylegan2_msp"]
FIGURES = {
    "uniform MAE": ("mae", "uniform"),
    "uniform Spearman": ("spearman", "uniform"),
    "uniform class agreement": ("class_agreement", "uniform"),
    "natural MAE": ("mae", "natural"),
    "FID": ("fid", "natural"),
}
# The checkout's train.py with other sizes than its presets have, which its processes find in BENCH_SIZES.
DRIVER = """
    import json, os, sys
    sys.path.insert(0, ".")
    import train
    from training import training_loop

    sizes = json.loads(os.environ["BENCH_SIZES"])

    def sized(plain=training_loop.training_loop, sizes=sizes, **args):
        for network in ("G_kwargs", "D_kwargs"):
            for name, value in sizes[network].items():
                if isinstance(value, dict):
                    args[network].setdefault(name, {}).update(value)
                else:
                    args[network][name] = value
        for optimiser in ("G_opt_kwargs", "D_opt_kwargs"):
            args[optimiser]["lr"] = sizes["lrate"]
        args["loss_kwargs"].update(sizes["loss_kwargs"])
        args.update(sizes["loop"])
        plain(**args)

    training_loop.training_loop = sized
    if __name__ == "__main__":
        train.main()
"""


def sizes(res: int, processes: int, kimg: float) -> dict[str, Any]:
    """Our preset `tiny` in the words of the checkout's training loop."""
    row = resolve_preset(PRESETS["tiny"], res, processes)
    channels = {"channel_base": row.channel_base, "channel_max": row.channel_max, "num_fp16_res": 0, "conv_clamp": None}
    return {
        "G_kwargs": {
            "z_dim": row.z_dim,
            "w_dim": row.z_dim,
            "mapping_kwargs": {"num_layers": row.map, "lr_multiplier": row.map_lr},
            "synthesis_kwargs": channels,
        },
        "D_kwargs": {
            **channels,
            "mapping_kwargs": {"num_layers": row.d_map, "lr_multiplier": row.d_map_lr},
            "epilogue_kwargs": {"mbstd_group_size": row.mbstd},
        },
        "lrate": row.lrate,
        "loss_kwargs": {"r1_gamma": row.gamma, "pl_weight": row.pl_weight, "style_mixing_prob": row.mix},
        "loop": {
            "batch_size": row.batch,
            "batch_gpu": row.batch // processes,
            "ema_kimg": row.ema,
            "ema_rampup": row.ramp,
            "ada_kimg": row.ada_kimg,
            "kimg_per_tick": kimg / 10,
            "total_kimg": kimg,
            "image_snapshot_ticks": None,
            "network_snapshot_ticks": 10**6,
        },
    }


def train_theirs(reference: Path, data: Path, kimg: float, processes: int, seed: int, work: Path) -> dict[str, Any]:
    """The patched checkout's train.py; its speed by tick and the network, imported with the archive's classifier."""
    copy = work / "checkout"
    shutil.copytree(reference, copy, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    patch_checkout(copy, our_patches(), reverse=True)
    patch_checkout(copy, our_patches())
    (copy / "sized.py").write_text(textwrap.dedent(DRIVER), encoding="utf-8")
    os.environ["BENCH_SIZES"] = json.dumps(sizes(32, processes, kimg))
    options = ["--cond-msp=1", f"--gpus={processes}", f"--seed={seed}", "--metrics=none", "--workers=1"]
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // processes, 1))  # as our train has it
    if not torch.cuda.is_available():
        os.environ["STYLEGAN2_MSP_CPU_LOOP"] = "1"
    run([sys.executable, "sized.py", f"--data={data}", f"--outdir={work / 'theirs'}", *options], copy)
    (folder,) = (work / "theirs").iterdir()
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    network = work / "theirs.safetensors"
    pkl = sorted(folder.glob("network-snapshot-*.pkl"))[-1]
    run([*OURS, "import", pkl, f"--dest={network}", f"--data={data}"], ROOT)
    return {"network": network, "sec_per_kimg": [line["Timing/sec_per_kimg"]["mean"] for line in lines[1:]]}


def train_ours(data: Path, kimg: float, processes: int, seed: int, work: Path) -> dict[str, Any]:
    """Our own train; its speed by tick and its network."""
    options = ["--cond-msp=1", "--precision=fp32", f"--gpus={processes}", f"--seed={seed}", f"--kimg={kimg:g}"]
    options += ["--cfg=tiny"]  # on a GPU the default is another
    ticks = [f"--tick={kimg / 10:g}", "--snap=1000000", "--metrics=none"]
    run([*OURS, "train", f"--data={data}", f"--outdir={work / 'ours'}", *options, *ticks], ROOT)
    (folder,) = (work / "ours").iterdir()
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    network = sorted(folder.glob("network-snapshot-*.safetensors"))[-1]
    return {"network": network, "sec_per_kimg": [line["sec_per_kimg"] for line in lines[1:]]}


def run(command: list[Any], folder: Path) -> None:
    """Runs it with this package in reach; its output is shown if it fails."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(word) for word in command], cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def evaluated(network: Path, data: Path, images: int, seed: int, outdir: Path) -> dict[str, float | None]:
    """The condition's figures of a network."""
    options = [f"--network={network}", f"--data={data}", f"--images={images}", f"--seed={seed}", f"--outdir={outdir}"]
    run([*OURS, "evaluate", *options], ROOT)
    found = Results.read(outdir / "results.json")
    return {name: found.value(*where) for name, where in FIGURES.items()}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: one column for each trainer."""
    lines = [f"| | {' | '.join(rows)} |", f"| --- | {' | '.join('---:' for _ in rows)} |"]
    for name in ("sec/kimg", *FIGURES):
        values = [f"{row[name]:.3g}" for row in rows.values()]
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines)


@click.command()
@click.option("--reference", type=click.Path(path_type=Path, exists=True), required=True, help="The checkout.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Annotated 32x32 archive.")
@click.option("--kimg", type=float, default=40.0, show_default=True)
@click.option("--processes", type=int, default=2, show_default=True, help="--gpus of both.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--images", type=int, default=4000, show_default=True, help="Items that evaluate looks at.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="JSON of the results.")
def main(reference: Path, data: Path, kimg: float, processes: int, seed: int, images: int, out: Path) -> None:
    """Train and measure both."""
    data = data.resolve()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, train in (("patched checkout", partial(train_theirs, reference)), ("ours", train_ours)):
            print(f"training: {name}", flush=True)
            row = train(data, kimg, processes, seed, work)
            ticks = row.pop("sec_per_kimg")
            figures = evaluated(row.pop("network"), data, images, seed, work / f"evaluation-{len(rows)}")
            rows[name] = {"sec/kimg": statistics.median(ticks), "sec/kimg by tick": ticks, **figures}
            print(f"{name}: {rows[name]}", flush=True)
    theirs, ours = rows["patched checkout"]["sec/kimg"], rows["ours"]["sec/kimg"]
    print(f"{table(rows)}\n\nours is {theirs / ours:.2f} times as fast")
    machine.save({"benchmark": "train", "command": sys.argv[1:], "kimg": kimg, "rows": rows}, out)


if __name__ == "__main__":
    main()
