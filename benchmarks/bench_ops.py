"""Times each operator beside its slow reference and, if asked, a stylegan2-ada-pytorch checkout's, in the same run.

    python benchmarks/bench_ops.py --reference PATH --out benchmarks/results/ops-cpu.json

All variants of a case are timed in turns, so that whatever else the machine does meets all of them. A ratio is the
median over rounds of (the other's seconds / our seconds): above 1, ours is quicker.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))
import machine
import reference

from torch_utils_ext.ops.bias_act import bias_act
from torch_utils_ext.ops.conv2d_resample import conv2d_resample
from torch_utils_ext.ops.grid_sample import grid_sample
from torch_utils_ext.ops.upfirdn2d import setup_filter, upfirdn2d

Call = Callable[..., torch.Tensor]

# Shapes of the images: of the 32x32 networks, and what the targets for a GPU are stated for.
SIZES: dict[str, tuple[int, ...]] = {
    "tiny": (2, 4, 8, 8),
    "small": (16, 64, 32, 32),
    "middle": (64, 128, 64, 64),
    "large": (64, 512, 64, 64),
    "huge": (32, 128, 256, 256),
}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = ("forward", "backward", "double")  # each contains the one before it
_AGREE = 0.02  # share of the largest value that variants may differ by
_OFF = "differs from ours by"


@dataclass(frozen=True)
class Operator:
    """One of ours with its settings.

    Attributes:
        function: takes the images, `more`, the settings and `impl`.
        theirs: 'module.function' that does the same in the checkout, without `impl`.
        settings: keyword arguments for given images.
        more: further tensors to differentiate for, for given images.
    """

    function: Call
    theirs: str
    settings: Callable[[torch.Tensor], dict[str, Any]]
    more: Callable[[torch.Tensor], list[torch.Tensor]] = lambda x: []

    def their_function(self, modules: Any) -> Call:
        """The checkout's function."""
        module, name = self.theirs.split(".")
        return getattr(getattr(modules, module), name)


def _bias(x: torch.Tensor) -> list[torch.Tensor]:
    return [torch.randn([x.shape[1]], device=x.device).to(x.dtype)]


def _weight(x: torch.Tensor) -> list[torch.Tensor]:
    return [torch.randn([x.shape[1], x.shape[1], 3, 3], device=x.device).to(x.dtype) / (3 * x.shape[1] ** 0.5)]


def _grid(x: torch.Tensor) -> dict[str, Any]:
    """A slight turn, as an augmentation makes it."""
    theta = torch.tensor([[0.98, -0.17, 0.05], [0.17, 0.98, 0.0]], device=x.device).expand(x.shape[0], 2, 3)
    return {"grid": torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False).to(x.dtype)}


def _fir(taps: int, **how: Any) -> Callable[[torch.Tensor], dict[str, Any]]:
    """Settings with a binomial filter; 12 taps, the number that ADA's filters have, stay separable."""
    line = [1.0]
    for _ in range(taps - 1):
        line = [a + b for a, b in zip([0.0, *line], [*line, 0.0], strict=True)]
    return lambda x: {"f": setup_filter(line, x.device), **how}


OPERATORS = {
    "bias_act lrelu": Operator(bias_act, "bias_act.bias_act", lambda x: {"act": "lrelu"}, _bias),
    "bias_act lrelu clamp": Operator(bias_act, "bias_act.bias_act", lambda x: {"act": "lrelu", "clamp": 256}, _bias),
    "bias_act swish": Operator(bias_act, "bias_act.bias_act", lambda x: {"act": "swish"}, _bias),
    "upfirdn2d 4x4": Operator(upfirdn2d, "upfirdn2d.upfirdn2d", _fir(4, padding=[2, 1, 2, 1])),
    "upfirdn2d 4x4 up 2": Operator(upfirdn2d, "upfirdn2d.upfirdn2d", _fir(4, up=2, padding=[2, 1, 2, 1], gain=4)),
    "upfirdn2d 4x4 down 2": Operator(upfirdn2d, "upfirdn2d.upfirdn2d", _fir(4, down=2, padding=1)),
    "upfirdn2d 12 up 2": Operator(upfirdn2d, "upfirdn2d.upfirdn2d", _fir(12, up=2, padding=[6, 5, 6, 5], gain=4)),
    "upfirdn2d 12 down 2": Operator(upfirdn2d, "upfirdn2d.upfirdn2d", _fir(12, down=2, padding=5)),
    "grid_sample": Operator(grid_sample, "grid_sample_gradfix.grid_sample", _grid),
    "conv2d_resample up 2": Operator(
        conv2d_resample, "conv2d_resample.conv2d_resample", _fir(4, up=2, padding=1, flip_weight=False), _weight
    ),
    "conv2d_resample down 2": Operator(
        conv2d_resample, "conv2d_resample.conv2d_resample", _fir(4, down=2, padding=1), _weight
    ),
}


def work(call: Call, inputs: list[torch.Tensor], mode: str) -> Callable[[], Any]:
    """What is timed: value; value and gradients; or gradients of the gradient for the images as well."""
    if mode == "forward":
        return lambda: call(*inputs)
    inputs = [t.detach().requires_grad_() for t in inputs]
    dy = torch.randn_like(call(*inputs)).requires_grad_(mode == "double")
    if mode == "backward":
        return lambda: torch.autograd.grad(call(*inputs), inputs, dy)

    def double() -> Any:
        (dx,) = torch.autograd.grad(call(*inputs), inputs[:1], dy, create_graph=True)
        found = torch.autograd.grad(dx, [dy, *inputs], dx.detach(), allow_unused=True)
        if found[0] is None:
            raise RuntimeError("no second derivative")
        return found

    return double


def in_turns(
    prepare: Mapping[str, Callable[[], Callable[[], Any]]], device: torch.device, rounds: int, seconds: float
) -> dict[str, Any]:
    """Seconds of each prepared call in every round, of a very slow one once.

    A variant that cannot do it gets the error's first line instead.
    """
    calls: dict[str, int] = {}
    works: dict[str, Callable[[], Any]] = {}
    found: dict[str, Any] = {}
    for name, make in prepare.items():
        try:
            run = works[name] = make()
            run()
            once = _timed(run, device, 1)
            found[name] = [once] if once > 2 * seconds else []
            if not found[name]:
                calls[name] = max(1, round(seconds / max(once, 1e-7)))
        except Exception as error:  # the other variants are still to be timed
            found[name] = (str(error).splitlines() or [type(error).__name__])[0]
    for _ in range(rounds):
        for name, count in calls.items():
            found[name].append(_timed(works[name], device, count) / count)
    return found


def _timed(run: Callable[[], Any], device: torch.device, count: int) -> float:
    machine.synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        run()
    machine.synchronize(device)
    return time.perf_counter() - start


def measure(
    operator: Operator, x: torch.Tensor, modules: Any, compiled: bool, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """One row per mode for given images; see `row` for what it holds."""
    settings, inputs = operator.settings(x), [x, *operator.more(x)]
    calls: dict[str, Call] = {"ours": lambda *tensors: operator.function(*tensors, **settings)}
    calls["ref"] = lambda *tensors: operator.function(*tensors, **settings, impl="ref")
    if modules is not None:
        theirs = operator.their_function(modules)
        calls["reference"] = lambda *tensors: theirs(*tensors, **settings)
    if compiled:
        torch.compiler.reset()
        calls["compiled ref"] = torch.compile(calls["ref"])
    value = calls["ours"](*inputs)
    moved = sum(t.nbytes for t in [*inputs, value])
    rows: list[dict[str, Any]] = []
    for mode in MODES:
        works = {
            name: functools.partial(work, call, inputs, mode)
            for name, call in calls.items()
            if (name, mode) != ("compiled ref", "double")
        }
        found = in_turns(works, x.device, rounds, seconds)
        rows.append({"mode": mode, **row(found, moved if mode == "forward" else None)})
    for name in rows[0]["seconds"]:
        off = float((calls[name](*inputs).double() - value.double()).abs().max() / value.double().abs().max())
        if not off <= _AGREE:
            rows[0]["failed"][name] = f"{_OFF} {off:.2g} of the largest value"
    return rows


def row(found: dict[str, Any], moved: int | None) -> dict[str, Any]:
    """Median seconds, others' ratios to ours, what failed, and bytes per second (each byte read or written once)."""
    timed = {name: times for name, times in found.items() if isinstance(times, list)}
    ours = timed.get("ours", [])
    return {
        "seconds": {name: statistics.median(times) for name, times in timed.items()},
        "ratio": {
            name: statistics.median(other / own for other, own in zip(times, ours, strict=False))
            for name, times in timed.items()
            if ours and name != "ours"
        },
        "failed": {name: text for name, text in found.items() if name not in timed},
        "bytes_per_second": None if moved is None or not ours else moved / statistics.median(ours),
    }


def table(rows: list[dict[str, Any]], bandwidth: float) -> Table:
    """The rows for reading: times in microseconds."""
    others = list(dict.fromkeys(name for r in rows for name in (*r["ratio"], *r["failed"])))
    result = Table(title=f"copy bandwidth {bandwidth / 1e9:.0f} GB/s; ratios: others' time / ours")
    for name in ("operator", "images", "mode"):
        result.add_column(name)
    for name in ("ours µs", *others, "GB/s", "of copy"):
        result.add_column(name, justify="right")
    for r in rows:
        rate = r["bytes_per_second"]
        result.add_row(
            r["operator"],
            f"{r['size']} {r['dtype']} {r['layout']}",
            r["mode"],
            f"{r['seconds']['ours'] * 1e6:.0f}" if "ours" in r["seconds"] else "failed",
            *[f"{r['ratio'][name]:.2f}" if name in r["ratio"] else "-" for name in others],
            *(("", "") if rate is None else (f"{rate / 1e9:.1f}", f"{rate / bandwidth:.0%}")),
        )
    return result


@click.command()
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(SIZES)), help="Images; may be repeated.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(list(DTYPES)), help="May be repeated.")
@click.option("--layout", "layouts", multiple=True, type=click.Choice(list(LAYOUTS)), help="May be repeated.")
@click.option("--operator", "names", multiple=True, type=click.Choice(list(OPERATORS)), help="May be repeated.")
@click.option("--reference", "checkout", type=click.Path(path_type=Path), help="A stylegan2-ada-pytorch checkout.")
@click.option("--compile/--no-compile", "compiled", default=None, help="Time torch.compile of the slow reference too.")
@click.option("--quick", is_flag=True, help="Tiny images and few rounds: shows that everything runs.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the results as JSON.")
def main(
    device: str,
    sizes: tuple[str, ...],
    dtypes: tuple[str, ...],
    layouts: tuple[str, ...],
    names: tuple[str, ...],
    checkout: Path | None,
    compiled: bool | None,
    quick: bool,
    out: Path | None,
) -> None:
    """Times the operators on this machine. Without options: small float32 images on a CPU, more and half on a GPU."""
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    gpu = place.type == "cuda"
    sizes = sizes or (("tiny",) if quick else ("small", "middle", "large", "huge") if gpu else ("small",))
    dtypes = dtypes or (("float16",) if gpu else ("float32",))
    modules = None if checkout is None else reference.load(checkout)
    rounds, seconds = (2, 0.002) if quick else (5, 0.03)
    bandwidth = machine.copy_bandwidth(place)
    rows: list[dict[str, Any]] = []
    wrong, lost = [], []
    for size, dtype, layout in itertools.product(sizes, dtypes, layouts or LAYOUTS):
        torch.manual_seed(0)
        x = torch.randn(SIZES[size], device=place).to(DTYPES[dtype])
        x = x.contiguous(memory_format=LAYOUTS[layout])
        for name in names or OPERATORS:
            case = {"operator": name, "size": size, "dtype": dtype, "layout": layout}
            try:
                found = measure(OPERATORS[name], x, modules, gpu if compiled is None else compiled, rounds, seconds)
            except Exception as error:  # the other operators are still to be timed
                found = [
                    {"mode": "forward", **row({"ours": (str(error).splitlines() or [type(error).__name__])[0]}, None)}
                ]
            rows += [{**case, **each} for each in found]
            lost = [] if modules is None else reference.lost_kernels(modules)
            for each in found:
                wrong += [f"{name}: {who} {why}" for who, why in each["failed"].items() if who == "ours" or _OFF in why]
            if out is not None:
                how = {"copy_bandwidth": bandwidth, "sizes": {size: SIZES[size] for size in sizes}, "rounds": rounds}
                machine.save({**how, "reference_without": lost, "rows": rows}, out)
    Console(width=None if sys.stdout.isatty() else 160).print(table(rows, bandwidth))
    if lost:
        print(f"the reference runs without its CUDA kernels of {' and '.join(lost)}, which could not be built")
    if out is not None:
        print(out)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
