"""A classifier given as a graph of tensor operators, replayed one by one: the graph is data, never code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from stylegan2_msp.classifiers.operators import find_operator
from stylegan2_msp.errors import UserError

DTYPES = {
    name: getattr(torch, name)
    for name in ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool", "bfloat16")
}
MEMORY_FORMATS = {
    name: getattr(torch, name) for name in ("contiguous_format", "channels_last", "channels_last_3d", "preserve_format")
}
_TRAINING_FLAGS = ("train", "training")


class Dropout(nn.Dropout):
    """aten.dropout as a layer that passes its input on, as in eval."""

    def forward(self, input: torch.Tensor, p: float = 0.0, train: bool = False) -> torch.Tensor:
        """The input itself."""
        return input


class Program(nn.Module):
    """Replays a graph: [N, ...] -> [N, K].

    Args:
        graph: plain JSON data with the keys

            - input: name of the batch; output: name of the result;
            - batch: the only batch size that the graph takes, or null for any (shorter batches are then padded);
            - weights: name in the graph -> [name of a buffer here, dtype, shape];
            - nodes: [operator, {argument: value}, result or list of results], in order. A value is a number, a text,
              null, a list of values, {"ref": name}, {"dtype": ...}, {"memory_format": ...}, {"layout": "strided"} or
              {"device": "input"}.

    Raises:
        UserError: the graph is malformed or uses an operator that is not allowed.
    """

    def __init__(self, graph: dict[str, Any], source: str = "classifier") -> None:
        super().__init__()
        self.graph = graph
        try:
            self._prepare(source)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, RuntimeError):
            raise UserError(f"{source}: its graph is malformed; export the model again") from None

    def _prepare(self, source: str) -> None:
        graph = self.graph
        self.input_name, self.output_name, self.batch = str(graph["input"]), str(graph["output"]), graph["batch"]
        if self.batch is not None and (type(self.batch) is not int or self.batch < 1):
            raise ValueError
        self.weights: dict[str, str] = {}
        for name, (buffer, dtype, shape) in graph["weights"].items():
            self.register_buffer(buffer, torch.empty(tuple(shape), dtype=DTYPES[dtype]))
            self.weights[name] = buffer
        known = {self.input_name, *self.weights}
        self.steps: list[tuple[Callable[..., Any], dict[str, Any], str | list[str], bool]] = []
        for name, args, results in graph["nodes"]:
            _check_node(name, args, results, known, set(self.weights), source)
            run = find_operator(name, source)
            if name.startswith("aten.dropout"):  # a layer, so that masks can be switched on in it
                run = Dropout(float(args["p"]))
                self.add_module(f"dropout{len(self.steps)}", run)
            self.steps.append((run, args, results, name.startswith("size.")))
            known.update([results] if isinstance(results, str) else results)
        if self.output_name not in known:
            raise ValueError
        self.last_use = _last_uses(self.steps, self.output_name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the graph on a batch; a graph of one batch size gets padded pieces of that size."""
        if self.batch is None or len(x) == self.batch:
            return self._replay(x)
        outs = []
        for part in x.split(self.batch):
            padded = torch.cat([part, part[-1:].expand(self.batch - len(part), *part.shape[1:])])
            outs.append(self._replay(padded)[: len(part)])
        return torch.cat(outs)

    def _replay(self, x: torch.Tensor) -> torch.Tensor:
        values: dict[str, Any] = {name: getattr(self, buffer) for name, buffer in self.weights.items()}
        values[self.input_name] = x
        for (run, args, results, plain), done in zip(self.steps, self.last_use, strict=True):
            given = {name: _value(arg, values, x.device) for name, arg in args.items()}
            out = run(*given.values()) if plain else run(**given)
            if isinstance(results, str):
                values[results] = out
            else:
                values.update(zip(results, out, strict=True))
            for name in done:
                del values[name]
        return values[self.output_name]


def _check_node(name: str, args: dict[str, Any], results: Any, known: set[str], weights: set[str], source: str) -> None:
    names = [results] if isinstance(results, str) else list(results)
    if not all(isinstance(n, str) for n in (name, *names)) or known & set(names):
        raise ValueError
    refs = list(_references(args))
    if not set(refs) <= known:
        raise ValueError
    if any(args.get(flag) is True for flag in _TRAINING_FLAGS):
        raise UserError(f"{source}: it was exported in training mode ({name}); call model.eval() before torch.export")
    first = next(iter(args.values()), None)
    if name.split(".")[1].endswith("_") and isinstance(first, dict) and first.get("ref") in weights:
        raise UserError(
            f"{source}: it changes its own weights when run ({name}); call model.eval() before torch.export"
        )


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "ref" in value:
            yield value["ref"]
        else:
            for item in value.values():
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _value(arg: Any, values: dict[str, Any], device: torch.device) -> Any:
    """What an operator is given for one argument."""
    if isinstance(arg, list):
        return [_value(item, values, device) for item in arg]
    if not isinstance(arg, dict):
        return arg
    ((kind, value),) = arg.items()
    if kind == "ref":
        return values[value]
    if kind == "device":
        return device
    return {"dtype": DTYPES, "memory_format": MEMORY_FORMATS, "layout": {"strided": torch.strided}}[kind][value]


def _last_uses(steps: list[Any], output: str) -> list[list[str]]:
    """For every step the names that nobody needs after it, so that memory is freed early."""
    needed = {output}
    uses: list[list[str]] = []
    for _, args, results, _ in reversed(steps):
        made = {results} if isinstance(results, str) else set(results)
        mentioned = set(_references(args)) | made
        uses.append(sorted(mentioned - needed))
        needed |= mentioned
    return uses[::-1]
