"""How opening and sampling archives grows with their size: 1,000 to 1,000,000 images of 32x32x3.

python benchmarks/bench_data.py [--full] [--folder DIR] [--out benchmarks/results/data.json] [--plot FILE]

Prints a table; writes JSON and a plot. Every size is measured in processes of its own. "Cold" means that the kernel was
asked to forget the file; a virtual machine's host may still remember it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import machine
import numpy as np
import psutil
import torch
from PIL import Image

from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.lazy import LazyImages
from stylegan2_msp.data.pixels import decode
from stylegan2_msp.data.samples import default_names

SIZES = (1_000, 10_000, 100_000)
FULL = 1_000_000
WORKERS = (1, 2, 4)
BATCH = 32
CLASSES = 10
SECONDS = 2.0  # of each measurement of sampling
NEED = 130  # images a second that a training step takes on two cores


def pngs(count: int = 500) -> list[bytes]:
    """Smooth random colour images of 32x32, packed; archives repeat them, which a reader cannot know."""
    rng = np.random.default_rng(0)
    packed = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        stream = io.BytesIO()
        small.resize((32, 32), Image.Resampling.BICUBIC).save(stream, "PNG", compress_level=1)
        packed.append(stream.getvalue())
    return packed


def make_archive(path: Path, count: int) -> None:
    """An annotated archive of that many images in the project's format."""
    rng, packed = np.random.default_rng(1), pngs()
    probs = rng.dirichlet(np.full(CLASSES, 0.2), count).astype(np.float32)
    classes, msp, one_hot = rng.integers(0, CLASSES, count).tolist(), probs.max(axis=1).tolist(), np.eye(CLASSES)
    names = default_names("images", count)
    labels = [[name, [*one_hot[k].tolist(), u]] for name, k, u in zip(names, classes, msp, strict=True)]
    manifest = {"labels": labels, "uncertainty": {"name": "msp"}, "probabilities": "probabilities.npy"}
    stream = io.BytesIO()
    np.save(stream, probs)
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(zipfile.ZipInfo(name), packed[i % len(packed)])
        archive.writestr("probabilities.npy", stream.getvalue(), zipfile.ZIP_DEFLATED)
        archive.writestr("dataset.json", json.dumps(manifest, separators=(",", ":")), zipfile.ZIP_DEFLATED)


def forget(path: Path) -> None:
    """Asks the kernel to drop the file from its cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sample(images: LazyImages, seconds: float) -> float:
    """Images a second in random batches, the next being decoded while one is taken, as in training."""
    generator = torch.Generator().manual_seed(0)
    ahead = [torch.randint(len(images), (BATCH,), generator=generator) for _ in range(2)]
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        images.expect(ahead)
        done += len(images[ahead.pop(0)])
        ahead.append(torch.randint(len(images), (BATCH,), generator=generator))
    return done / passed


def measure(path: Path, cold: bool) -> dict[str, Any]:
    """Runs in a process of its own: opens the archive, then (when cold) samples it with 1, 2 and 4 workers."""
    process = psutil.Process()
    before = process.memory_info().rss
    if cold:
        forget(path)
    start, cpu = time.perf_counter(), time.process_time()
    archive = open_archive(path)
    found: dict[str, Any] = {
        "open_seconds": time.perf_counter() - start,
        "open_cpu_seconds": time.process_time() - cpu,
        "open_mib": (process.memory_info().rss - before) / 2**20,
        "open_peak_mib": (peak_rss() - before) / 2**20,
    }
    if not cold:
        return found
    sample(LazyImages(archive, np.arange(len(archive)), 1), 0.2)  # Pillow loads its decoders
    for workers in WORKERS:
        images = LazyImages(archive, np.arange(len(archive)), workers)
        forget(path)
        found[f"cold_{workers}"] = sample(images, SECONDS)
        archive.members.content_sha256()  # reads the whole file, so that it is in the kernel's cache
        found[f"warm_{workers}"] = sample(images, SECONDS)
    found["sampling_mib"] = (process.memory_info().rss - before) / 2**20
    return found


def peak_rss() -> int:
    """The most memory that this process has held, bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def decode_limit() -> float:
    """Images a second that Pillow decodes on one core from memory: no archive, no threads."""
    packed = pngs()
    start, done = time.process_time(), 0
    while (passed := time.process_time() - start) < 1:
        decode(packed[done % len(packed)], "")
        done += 1
    return done / passed


def measure_sizes(sizes: list[int], folder: Path, keep: bool) -> list[dict[str, Any]]:
    rows = []
    for count in sizes:
        path = folder / f"images{count}.zip"
        if not path.exists():
            make_archive(path, count)
        row: dict[str, Any] = {"images": count, "archive_mib": path.stat().st_size / 2**20}
        for name, cold in (("warm_open", False), ("cold_open", True)):
            child = [sys.executable, __file__, "--child", str(path), "--cold", str(int(cold))]
            done = subprocess.run(child, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            row[f"{name}_seconds"] = found.pop("open_seconds")
            row |= found
        row["load"] = psutil.getloadavg()[0]
        rows.append(row)
        print(table([row], head=len(rows) == 1), flush=True)
        if not keep:
            path.unlink()
    return rows


def table(rows: list[dict[str, Any]], head: bool = True) -> str:
    """Rows as Markdown."""
    lines = []
    if head:
        lines = [
            "| images | archive, MiB | open cold / warm / CPU, s | memory open / peak / sampling, MiB "
            "| images/s cold, 1 / 2 / 4 workers | images/s warm, 1 / 2 / 4 workers |",
            "| ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
    for row in rows:
        speed = [" / ".join(f"{row[f'{kind}_{w}']:,.0f}" for w in WORKERS) for kind in ("cold", "warm")]
        memory = " / ".join(f"{row[name]:,.0f}" for name in ("open_mib", "open_peak_mib", "sampling_mib"))
        opening = f"{row['cold_open_seconds']:.2f} / {row['warm_open_seconds']:.2f} / {row['open_cpu_seconds']:.2f}"
        lines.append(
            f"| {row['images']:,} | {row['archive_mib']:,.0f} | {opening} | {memory} | {speed[0]} | {speed[1]} |"
        )
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Sampling speed, opening time and memory over the number of images, on logarithmic axes."""
    from stylegan2_msp.report.style import BLUE, GREEN, INK, ORANGE, VERMILION, new_figure, save_figure, styled

    rows, limit = results["rows"], results["decode_limit"] * results["cores"]
    x = [row["images"] for row in rows]
    with styled():
        figure = new_figure(14.5, 4.8)
        speed, opening, memory = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
        for workers, colour, marker in zip(WORKERS, (BLUE, ORANGE, GREEN), "o^s", strict=True):
            for kind, line in (("warm", "-"), ("cold", ":")):
                y = [row[f"{kind}_{workers}"] for row in rows]
                speed.plot(x, y, marker, color=colour, ls=line, label=f"workers: {workers}, {kind}")
        speed.axhline(limit, color=INK, ls="--", label=f"limit: decoding alone, {results['cores']} cores")
        speed.axhline(NEED, color=VERMILION, ls="-.", label=f"a training step's need: {NEED}")
        speed.set(ylabel="images per second", title="Random batches of 32", ylim=(NEED / 2, limit * 2))
        speed.legend(fontsize=9, ncols=2, loc="center", bbox_to_anchor=(0.5, 0.38))
        for kind, line in (("warm", "-"), ("cold", ":")):
            opening.plot(x, [row[f"{kind}_open_seconds"] for row in rows], "o", color=BLUE, ls=line, label=kind)
        opening.set(ylabel="seconds", title="Opening")
        memory.plot(x, [n * 3 / 1024 for n in x], color=INK, ls="--", label="all images, decoded")
        memory.plot(x, [row["open_peak_mib"] for row in rows], "s-", color=GREEN, label="peak at opening")
        memory.plot(x, [row["sampling_mib"] for row in rows], "^-", color=ORANGE, label="while sampling")
        memory.set(ylabel="MiB", title="Memory of the process")
        for axes in (speed, opening, memory):
            axes.set(xscale="log", yscale="log", xlabel="images of 32x32x3 in the archive")
        opening.legend(fontsize=9)
        memory.legend(fontsize=9)
        save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="measure a million images, too")
    parser.add_argument("--folder", type=Path, help="keep the archives here (about 2.3 GB with --full)")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--plot", type=Path, help="figure to write")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cold", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child, bool(given.cold))))
        return
    sizes = [*SIZES, FULL] if given.full else [*SIZES]
    results: dict[str, Any] = {"decode_limit": decode_limit(), "cores": psutil.cpu_count(), "batch": BATCH}
    with tempfile.TemporaryDirectory() as temporary:
        results["rows"] = measure_sizes(sizes, given.folder or Path(temporary), given.folder is not None)
    if given.out:
        machine.save(results, given.out)
    if given.plot:
        plot(results, given.plot)


if __name__ == "__main__":
    main()
