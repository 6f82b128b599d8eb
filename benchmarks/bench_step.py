"""Times one training step, phase by phase, beside the reference implementation's in the same run.

    python benchmarks/bench_step.py --config small --reference PATH --out benchmarks/results/step-cpu.json

Ours and the reference's are timed in turns, so that whatever else the machine does meets both. The ratio is the median
over rounds of (reference's seconds / our seconds).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).resolve().parent))
import machine
import reference
from ours import CONFIGS, OurTrainer, make_setting

from stylegan2_msp.device import keep_freed_memory


class FlopCount(TorchDispatchMode):
    """Floating-point operations of convolutions and matrix products, by PyTorch's own formulas.

    PyTorch's FlopCounterMode also tells modules apart, which fails on some releases where parts run without gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        self.total += formula(*args, **(kwargs or {}), out_val=result) if formula else 0
        return result


def seconds(run: Callable[[], Any], device: torch.device, count: int) -> float:
    """Wall time of `count` calls of `run`, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(run: Callable[[], Any], device: torch.device) -> float | None:
    """Peak GiB while `run` runs: allocated on the GPU; resident in the process on Linux; None elsewhere."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 2**30
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        run()
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    return None


def measure(contestants: dict[str, Any], phases: list[str], rounds: int, cycle: int, device: torch.device) -> Any:
    """Seconds of each phase and of a mean iteration, [rounds] values each, all contestants in turns."""
    times: dict[str, dict[str, list[float]]] = {name: {p: [] for p in [*phases, "step"]} for name in contestants}
    failed: dict[str, dict[str, str]] = {name: {} for name in contestants}
    for phase in [*phases, "step"]:
        for turn in range(rounds + 1):
            for name, who in contestants.items():
                if phase in failed[name]:
                    continue

                # The first turn warms up: enough calls for a phase to become a graph.
                count = (1 if phase == "step" else 5) if not turn else cycle if phase == "step" else 2
                run = who.step if phase == "step" else functools.partial(who.phase, phase)
                try:
                    spent = seconds(run, device, count) / count
                except (RuntimeError, NotImplementedError) as error:
                    failed[name][phase] = str(error).splitlines()[0][:200]
                    continue
                if turn:
                    times[name][phase].append(spent)
    return times, failed


def summarise(
    times: dict[str, dict[str, list[float]]], failed: dict[str, dict[str, str]], batch: int
) -> dict[str, dict[str, Any]]:
    """Medians, speeds and ratios."""
    result: dict[str, dict[str, Any]] = {}
    for name, phases in times.items():
        row: dict[str, Any] = {f"{p}_ms": 1000 * statistics.median(v) for p, v in phases.items() if v}
        if phases["step"]:
            row["img_per_s"] = batch / statistics.median(phases["step"])
            row["sec_per_kimg"] = 1000 / row["img_per_s"]
        row["failed"] = failed[name]
        result[name] = row
    if "reference" in times:
        ours = times["ours"]
        result["ratio"] = {
            p: statistics.median(a / b for a, b in zip(v, ours[p], strict=True))
            for p, v in times["reference"].items()
            if v and ours[p]
        }
    return result


def arithmetic(ours: OurTrainer, precision: str, found: dict[str, Any], device: torch.device) -> dict[str, float]:
    """GFLOP per image of Gmain and Dmain, and their share of what the machine's products reach."""
    with FlopCount() as counter:
        ours.phase("Gmain")
        ours.phase("Dmain")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    peak = machine.matrix_peak(dtype, device)
    spent = (found["Gmain_ms"] + found["Dmain_ms"]) / 1000
    return {
        "gflop_per_image": counter.total / ours.config.batch / 1e9,
        "share_of_matrix_peak": counter.total / spent / peak,
        "matrix_peak_gflops": peak / 1e9,
    }


def bench(
    config: str,
    precision: str,
    ada: float,
    path_length: bool,
    batch: int | None,
    rounds: int,
    checkout: Path | None,
    device: torch.device,
    graphs: bool = True,
) -> dict[str, Any]:
    """All figures of one configuration."""
    setting = make_setting(config, device, ada, path_length, batch)
    torch.manual_seed(0)
    ours = OurTrainer(setting, setting["samples"], device, precision)
    ours.trainer.graphs.enabled &= graphs
    contestants: dict[str, Any] = {"ours": ours}
    if checkout is not None:
        half = ours.config.G_kwargs["synthesis_kwargs"]
        limits = {
            "num_fp16_res": half["num_fp16_res"] if device.type == "cuda" else 0,
            "conv_clamp": half["conv_clamp"],
        }
        modules = reference.load(checkout)
        contestants["reference"] = reference.ReferenceTrainer(modules, {**setting, **limits}, device)
    phases = ["Gmain", *(["Greg"] if path_length else []), "Dmain", "Dreg"]
    times, failed = measure(contestants, phases, rounds, setting["r1_interval"], device)
    graphs = ours.trainer.graphs.enabled and not ours.trainer.graphs.direct  # none was given up
    result = summarise(times, failed, setting["batch"])
    ours.trainer.graphs.enabled = False  # a replayed graph calls no operator, and its memory is not seen
    ours.trainer.graphs.phases.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for name, who in contestants.items():
        if times[name]["step"]:
            result[name]["peak_gib"] = peak_memory(who.step, device)
    if checkout is not None:
        result["reference"]["kernels"] = reference.kernels(modules)
    if not failed["ours"]:
        result["ours"] |= arithmetic(ours, precision, result["ours"], device)
    about = {key: setting[key] for key in ("img_resolution", "img_channels", "channel_base", "channel_max", "batch")}
    how = {"precision": precision, "ada_p": ada, "path_length": path_length, "graphs": graphs}
    how["device"] = device.type
    return {"config": config, **how, **about, **result}


def show(row: dict[str, Any]) -> None:
    """One block of plain lines."""
    print(
        f"\n{row['config']}: {row['img_resolution']}x{row['img_resolution']}x{row['img_channels']}, "
        f"{row['channel_base']}/{row['channel_max']}, batch {row['batch']}, {row['precision']}, ADA p={row['ada_p']}, "
        f"path length {'on' if row['path_length'] else 'off'}{', replayed' if row['graphs'] else ''}"
    )
    for name in ("ours", "reference"):
        if name in row:
            found = row[name]
            phases = "  ".join(f"{k[:-3]} {v:.0f} ms" for k, v in found.items() if k.endswith("_ms"))
            speed = (
                f"{found['img_per_s']:.1f} img/s  {found['sec_per_kimg']:.2f} s/kimg" if "img_per_s" in found else "-"
            )
            memory = f"  peak {found['peak_gib']:.2f} GiB" if found.get("peak_gib") else ""
            print(f"  {name:9s} {speed}{memory}  {phases}")
            if row["device"] == "cuda" and not all(found.get("kernels", {}).values()):
                print(f"            runs without all of its CUDA kernels: {found['kernels']}")
            for phase, why in found["failed"].items():
                print(f"            {phase} fails: {why}")
    if "gflop_per_image" in row["ours"]:
        print(
            f"  {row['ours']['gflop_per_image']:.2f} GFLOP per image of Gmain + Dmain, "
            f"{row['ours']['share_of_matrix_peak']:.0%} of the measured matrix peak"
        )
    if "ratio" in row:
        print("  ratio     " + "  ".join(f"{p} {v:.2f}" for p, v in row["ratio"].items()))
    sys.stdout.flush()


@click.command()
@click.option("--config", "configs", multiple=True, type=click.Choice(list(CONFIGS)), help="Sizes; repeatable.")
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(["fp32", "bf16", "fp16"]), help="Repeatable."
)
@click.option("--ada", type=float, default=0.0, show_default=True, help="Fixed probability of the bgc augmentations.")
@click.option("--path-length", is_flag=True, help="With path length regularisation.")
@click.option("--batch", type=int, help="Batch.  [default: the configuration's]")
@click.option("--rounds", type=int, default=5, show_default=True, help="Timed turns of each phase.")
@click.option("--threads", type=int, help="CPU threads.  [default: torch's]")
@click.option("--graphs/--no-graphs", default=True, show_default=True, help="Replay the phases, as training does.")
@click.option("--reference", "checkout", type=click.Path(path_type=Path), help="Checkout of stylegan2-ada-pytorch.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda if there is one]")
@click.option("--out", type=click.Path(path_type=Path), help="Write the results here as JSON.")
def main(
    configs: tuple[str, ...],
    precisions: tuple[str, ...],
    ada: float,
    path_length: bool,
    batch: int | None,
    rounds: int,
    threads: int | None,
    graphs: bool,
    checkout: Path | None,
    device: str | None,
    out: Path | None,
) -> None:
    """Time training steps."""
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.backends.cudnn.benchmark = True  # this and the next, as both trainings do
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if target.type == "cpu":
        keep_freed_memory()  # as training does; here the reference gains by it as well
    if threads:
        torch.set_num_threads(threads)
    rows, lost = [], []
    for config, precision in itertools.product(configs or ("small",), precisions or ("fp32",)):
        try:
            rows.append(bench(config, precision, ada, path_length, batch, rounds, checkout, target, graphs))
            show(rows[-1])
        except (RuntimeError, NotImplementedError) as error:  # the other configurations are still to be timed
            lost.append(f"{config} {precision}")
            print(f"\n{lost[-1]} fails: {(str(error).splitlines() or [type(error).__name__])[0]}", flush=True)
        if out is not None:
            machine.save({"benchmark": "step", "command": sys.argv[1:], "rows": rows, "failed": lost}, out)
    if lost:
        sys.exit(f"failed: {', '.join(lost)}")


if __name__ == "__main__":
    main()
