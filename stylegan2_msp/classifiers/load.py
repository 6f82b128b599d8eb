"""Bring your own classifier: a .pt2 program, a factory with weights, or a file that this project wrote."""

from __future__ import annotations

import importlib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from stylegan2_msp.classifiers.exported import read_exported
from stylegan2_msp.classifiers.foreign import SAVE_WEIGHTS, STATE_DICT, kind_of_file
from stylegan2_msp.classifiers.frozen import FrozenClassifier
from stylegan2_msp.classifiers.program import Program
from stylegan2_msp.classifiers.spec import ClassifierSpec
from stylegan2_msp.errors import UserError
from stylegan2_msp.progress import torch_quiet

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")
_FIXED_BATCH = 32
_WRAPPERS = ("_orig_mod.", "module.")  # what torch.compile and DataParallel put before the names of weights


@dataclass(frozen=True)
class Declared:
    """What the user says of a classifier's input and output; None and the defaults mean: as the data.

    Attributes:
        size: height and width in pixels.
        channels: 1 or 3; grey data is repeated for a 3-channel classifier.
        range: values of black and white before normalisation.
        mean, std: normalisation, one number or one per channel.
        output: 'logits' or 'probs'.
    """

    size: int | None = None
    channels: int | None = None
    range: Sequence[float] = (0.0, 1.0)
    mean: Sequence[float] | float = (0.0,)
    std: Sequence[float] | float = (1.0,)
    output: str = "logits"


@dataclass(frozen=True)
class DataShape:
    """What a classifier will be shown: ``kind`` 'images' (channels, resolution) or 'points', with K classes."""

    kind: str
    channels: int
    resolution: int
    num_classes: int


def load_classifier(
    argument: str, shape: DataShape, declared: Declared | None = None, weights: str | Path | None = None
) -> FrozenClassifier:
    """Makes a frozen classifier for data of this shape.

    Args:
        argument: path of a .pt2 file (torch.export) or of a .safetensors file that `FrozenClassifier` wrote, or
            'package.module:factory', a function without arguments that returns a torch module.
        shape: of the data.
        declared: what its input looks like; not for .safetensors, which know it.
        weights: safetensors file with the factory module's state dict.

    Raises:
        UserError: it cannot be found, read, imported or exported, or is for other data.
    """
    path = Path(argument)
    refuse_weights(weights, argument)
    if path.suffix == ".safetensors":
        found = FrozenClassifier.from_bytes(read_file(path, "--classifier"), argument)
        refuse_declared(declared, argument)
        return fit_to(found, shape, argument)
    if is_factory(argument):
        module = _from_factory(argument, weights)
        spec = _declared_spec(shape, declared or Declared())
        return _from_program(_export(module, spec, argument), spec, argument)
    if path.suffix == ".pt2" or path.exists():
        return _from_program(read_file(path, "--classifier"), _declared_spec(shape, declared or Declared()), argument)
    raise UserError(
        f"--classifier: {argument!r} is no such file; give 'train', a .pt2 or .safetensors file, an annotated archive, "
        "or package.module:factory"
    )


def is_factory(argument: str) -> bool:
    """Whether ``argument`` names a function of the user's, 'package.module:factory', and no file."""
    return _FACTORY.fullmatch(argument) is not None and not Path(argument).exists()


def fit_to(classifier: FrozenClassifier, shape: DataShape, source: str) -> FrozenClassifier:
    """The same classifier, after checking that it is for data of this shape."""
    spec = classifier.spec
    found = DataShape(spec.data, spec.img_channels, spec.img_resolution, spec.num_classes)
    if found != shape:
        raise UserError(f"--classifier: {source} is for {_describe(found)}, the data has {_describe(shape)}")
    return classifier


def refuse_declared(declared: Declared | None, source: str) -> None:
    """Raises `UserError` where an input is declared of a classifier that knows its own."""
    if declared is not None:
        raise UserError(
            f"--classifier: {source} knows its input and output; leave out --input-... and --classifier-output"
        )


def refuse_weights(weights: str | Path | None, argument: str) -> None:
    """Raises `UserError` where weights are given for anything but a factory."""
    if weights is not None and not is_factory(argument):
        raise UserError("--classifier-weights: goes with --classifier package.module:factory only; leave it out")


def read_file(path: Path, option: str) -> bytes:
    """A file's bytes, or one line that says why not."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{option}: {path} cannot be read ({error.strerror or error}); check the path") from None
    if not data:
        raise UserError(f"{option}: {path} is empty; make it again")
    return data


def _describe(shape: DataShape) -> str:
    size = f"{shape.channels}x{shape.resolution}x{shape.resolution} images" if shape.kind == "images" else "2-D points"
    return f"{size} of {shape.num_classes} classes"


def _declared_spec(shape: DataShape, declared: Declared) -> ClassifierSpec:
    points = shape.kind == "points"
    if points and (declared.size or declared.channels):
        raise UserError("--input-size, --input-channels: the data are 2-D points; leave these options out")
    channels = 2 if points else declared.channels or shape.channels
    given = (declared.range, declared.mean, declared.std)
    low_high, mean, std = (tuple(np.asarray(numbers, np.float64).ravel().tolist()) for numbers in given)
    if channels == 1 and max(len(mean), len(std)) > 1:
        raise UserError(
            "--input-mean, --input-std: several numbers for grey images; add --input-channels 3 if the classifier "
            "wants colours, or give one number each"
        )
    return ClassifierSpec(
        arch="program",
        data=shape.kind,
        num_classes=shape.num_classes,
        img_channels=shape.channels,
        img_resolution=shape.resolution,
        input_channels=channels,
        input_size=0 if points else declared.size or shape.resolution,
        input_range=low_high,
        input_mean=mean,
        input_std=std,
        output=declared.output,
    )


def _input_shape(spec: ClassifierSpec) -> tuple[int, ...]:
    return (spec.input_channels, spec.input_size, spec.input_size) if spec.data == "images" else (spec.input_channels,)


def _from_program(data: bytes, spec: ClassifierSpec, source: str) -> FrozenClassifier:
    graph, weights, shape = read_exported(data, source)
    wanted = _input_shape(spec)
    if len(shape) != len(wanted) + 1 or any(a not in (None, b) for a, b in zip(shape[1:], wanted, strict=True)):
        found = "x".join("?" if size is None else str(size) for size in shape[1:])
        raise UserError(
            f"--classifier: {source} takes inputs of {found}, declared (or the data's) are "
            f"{'x'.join(map(str, wanted))}; give --input-size and --input-channels as it wants them"
        )
    net = Program(graph, source)
    net.load_state_dict(weights)
    changes = {**vars(spec), "arch_args": graph}
    return FrozenClassifier(ClassifierSpec(**changes), net)


def _from_factory(argument: str, weights: str | Path | None) -> nn.Module:
    """Imports and calls the user's own function, which is named on the command line and never in a file."""
    module_name, _, function = argument.partition(":")
    try:
        with _importing_from_here():
            factory = importlib.import_module(module_name)
            for part in function.split("."):
                factory = getattr(factory, part)
            model = factory()  # type: ignore[operator]
    except Exception as error:
        raise UserError(f"--classifier: {argument} failed ({type(error).__name__}: {_line(error)})") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"--classifier: {argument} returned a {type(model).__name__}, expected a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(f"--classifier: {argument} returned a TorchScript program; return the module it was made of")
    if weights is not None:
        state = _read_state(Path(weights))
        for prefix in _WRAPPERS:
            if not any(name.startswith(prefix) for name in model.state_dict()):
                consume_prefix_in_state_dict_if_present(state, prefix)
        try:
            model.load_state_dict(state)
        except Exception as error:
            raise UserError(f"--classifier-weights: {weights} does not fit {argument} ({_line(error)})") from error
    return model.eval().requires_grad_(False).float().cpu()


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    data = read_file(path, "--classifier-weights")
    kind = kind_of_file(data)
    try:
        return safetensors.torch.load(data)
    except Exception:
        found = "no safetensors file, or truncated" if kind in (None, STATE_DICT) else kind
        raise UserError(f"--classifier-weights: {path} is {found}; write it with {SAVE_WEIGHTS}") from None


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """The current folder can be imported from, as with `python -m`."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _export(model: nn.Module, spec: ClassifierSpec, argument: str) -> bytes:
    """The module as a .pt2: any batch size where it can be traced so, else one fixed size."""
    shape = _input_shape(spec)
    failure: Exception | None = None
    for batch, dynamic in ((2, ({0: torch.export.Dim("batch", max=1 << 31)},)), (_FIXED_BATCH, None)):
        buffer = io.BytesIO()
        try:
            with torch_quiet():
                example = (torch.zeros(batch, *shape, dtype=torch.float32),)
                program = torch.export.export(model, example, dynamic_shapes=dynamic, strict=False)
                torch.export.save(program, buffer)
            return buffer.getvalue()
        except Exception as error:
            failure = failure or error
    raise UserError(
        f"--classifier: {argument} cannot be exported for inputs of {'x'.join(map(str, shape))} "
        f"({type(failure).__name__}: {_line(failure)}); check --input-size and --input-channels, or export it to a "
        ".pt2 yourself"
    )


def _line(error: Exception | None) -> str:
    return " ".join(str(error).split())[:200]
