"""Generators as ONNX files and as torch.export programs, kept only when running them gives our own images."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from stylegan2_msp.errors import UserError
from stylegan2_msp.files import replacing
from stylegan2_msp.generation import load_generator
from stylegan2_msp.progress import torch_quiet
from stylegan2_msp.upstream.traced import PlainGenerator
from torch_utils_ext.ops.library import plain_only

TOLERANCE = 1e-4  # relative to the largest value of an image
_BATCHES = (1, 3, 4)  # the first and last are not what the program was traced with
_EXTRA = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[[Sequence[torch.Tensor]], torch.Tensor]


def export_torch(network: Path, dest: Path, noise: str = "const") -> PlainGenerator:
    """Writes a ``torch.export`` program of PyTorch's own operators; `torch.export.load(dest).module()` runs it.

    Args:
        network: the snapshot.
        dest: a .pt2 file.
        noise: 'const', 'none' or 'input'.

    Raises:
        UserError: the snapshot cannot be read, or the program gives other images than the generator.
    """
    plain = _plain_generator(network, noise)
    program = _traced(plain)
    with replacing(dest) as temporary, torch_quiet():
        with open(temporary, "wb") as file:
            torch.export.save(program, file)
        module = torch.export.load(io.BytesIO(temporary.read_bytes())).module()
        _verify(plain, lambda inputs: module(*inputs), dest)
    return plain


def export_onnx(network: Path, dest: Path, noise: str = "const") -> PlainGenerator:
    """Writes an ONNX file with all weights inside, and runs it with onnxruntime; else as `export_torch`."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--to onnx: needs {', '.join(missing)}; pip install onnx onnxruntime onnxscript")
    import onnxruntime

    plain = _plain_generator(network, noise)
    program = _traced(plain)
    output = "img" if plain.images else "points"
    with torch_quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=plain.inputs,
            output_names=[output],
            dynamic_shapes=_any_number(plain),  # here only the axis's name counts
            verbose=False,
            optimize=True,
        )
    if made is None:
        raise UserError(f"{dest}: PyTorch {torch.__version__} made no ONNX program; update it")
    with replacing(dest) as temporary:
        made.save(str(temporary), external_data=False)
        session = onnxruntime.InferenceSession(temporary.read_bytes(), providers=["CPUExecutionProvider"])

        def run(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            given = {name: value.numpy() for name, value in zip(plain.inputs, inputs, strict=True)}
            return torch.from_numpy(session.run([output], given)[0])

        _verify(plain, run, dest)
    return plain


def _plain_generator(network: Path, noise: str) -> PlainGenerator:
    generator = load_generator(network, "cpu")
    if noise == "input" and generator.kind != "images":
        raise UserError(f"--noise input: {network} generates 2-D points, which take no noise; leave it out")
    return PlainGenerator(generator, noise).eval()


@torch.no_grad()
def _traced(plain: PlainGenerator) -> torch.export.ExportedProgram:
    """The program for any number of items, in PyTorch's own operators."""
    example = tuple(plain.example(_BATCHES[1]))
    with plain_only(), torch_quiet():
        program = torch.export.export(plain, example, dynamic_shapes=_any_number(plain), strict=False)
        return program.run_decompositions({})


def _any_number(plain: PlainGenerator) -> tuple[Any, ...]:
    """Dynamic shapes of `PlainGenerator.forward(z, *rest)`: any number of items."""
    items = torch.export.Dim("batch", max=1 << 31)  # torch 2.6 refuses one without a bound
    z, *rest = ({0: items} for _ in plain.inputs)
    return (z, tuple(rest)) if rest else (z,)


@torch.no_grad()
def _verify(plain: PlainGenerator, run: Run, dest: Path) -> None:
    """Raises `UserError` unless the written program gives the images of `generate`, for several batches."""
    for n in _BATCHES:
        inputs = plain.example(n, seed=n)
        expected, found = plain(*inputs), run(inputs)
        error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
        if found.shape != expected.shape or not error <= TOLERANCE:
            raise UserError(
                f"{dest}: the written program is off by {error:.1e} for {n} items (allowed: {TOLERANCE:g}); "
                "nothing was left there; report it with the versions of torch and onnxruntime"
            )
