"""A stretch of PyTorch code as the list of its operators, called again without the Python and autograd around them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_OF_VALUES = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


class Recorder(TorchDispatchMode):
    """Notes every operator that is called within it, on a CPU, to call them once more on `replay`.

    Derivatives, the optimizer's update and numbers drawn from a generator are operators like others, so a replay leaves
    the same bits. As in a CUDA graph, what Python computed is fixed, and results are left only in tensors that were
    there before.

    Attributes:
        refused: why there is no replay, or None: Python looked at a tensor's values, say.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused: str | None = None
        self._graph = fx.Graph()
        self._given: list[Any] = []  # of the graph: tensors that were there before, and generators
        self._nodes: dict[int, dict[tuple[Any, ...], fx.Node]] = {}  # of the tensors in each storage
        self._storages: dict[int, StorageWeakRef] = {}  # while these are held no address is used again
        self._before: set[int] = set()  # storages that were not made within
        self._module: fx.GraphModule | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if self.refused is None and func.namespace != "profiler":
            self._note(func, args, kwargs, out)
        return out

    def replay(self) -> None:
        """Calls the operators again."""
        if self._module is None:
            self._graph.output(None)
            self._module = fx.GraphModule(torch.nn.Module(), self._graph)
            self._nodes.clear()
            self._storages.clear()
        with torch.inference_mode():
            self._module.forward(*self._given)

    def _note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        given, made = ([t for t in tree_leaves(tree) if isinstance(t, torch.Tensor)] for tree in ((args, kwargs), out))
        if any(t.device.type != "cpu" or t.layout != torch.strided for t in (*given, *made)):
            self.refused = f"{func} is done elsewhere than on the CPU"
        elif func.namespace == "c10d" or _looks_at_values(func, args):
            self.refused = f"it hangs on more than tensors and their shapes ({func})"
        elif func._schema.is_mutable or not self._is_of_before(given, made):
            node = self._graph.call_function(func, *tree_map(self._as_given, (tuple(args), dict(kwargs))))
            self._name(node, out)

    def _is_of_before(self, given: list[torch.Tensor], made: list[torch.Tensor]) -> bool:
        """Whether all results are views of what was there before: then they were there before, too."""
        outer = {s for s in map(_storage, given) if s in self._before or s not in self._nodes}
        return bool(made) and all(_storage(t) in outer for t in made)

    def _as_given(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._node(value)
        return self._keep(value) if isinstance(value, torch.Generator) else value

    def _node(self, t: torch.Tensor) -> fx.Node:
        storage, geometry = _storage(t), _geometry(t)
        if storage not in self._nodes:
            self._hold(t)
            self._before.add(storage)
        nodes = self._nodes[storage]
        if geometry not in nodes:
            if storage in self._before:
                nodes[geometry] = self._keep(t.detach())
            else:  # autograd kept the values of a tensor under another shape
                like = next(node for known, node in nodes.items() if known[0] == t.dtype)
                where = (like, list(t.shape), list(t.stride()), t.storage_offset())
                nodes[geometry] = self._graph.call_function(torch.ops.aten.as_strided.default, where)
        return nodes[geometry]

    def _keep(self, value: Any) -> fx.Node:
        self._given.append(value)
        return self._graph.placeholder(f"given_{len(self._given)}")

    def _name(self, node: fx.Node, out: Any) -> None:
        """Remembers which node stands for which result."""
        for i, t in enumerate(out if isinstance(out, (list, tuple)) else [out]):
            if not isinstance(t, torch.Tensor):
                continue
            storage, geometry = _storage(t), _geometry(t)
            if storage not in self._nodes:
                self._hold(t)
            if geometry not in self._nodes[storage]:
                one = self._graph.call_function(operator.getitem, (node, i)) if t is not out else node
                self._nodes[storage][geometry] = one

    def _hold(self, t: torch.Tensor) -> None:
        self._storages[_storage(t)] = StorageWeakRef(t.untyped_storage())
        self._nodes[_storage(t)] = {}


def _storage(t: torch.Tensor) -> int:
    return t.untyped_storage()._cdata


def _geometry(t: torch.Tensor) -> tuple[Any, ...]:
    return t.dtype, t.storage_offset(), tuple(t.shape), t.stride()


def _looks_at_values(func: Any, args: Any) -> bool:
    """Whether the shape of the result, or what Python is told, hangs on values."""
    if func is torch.ops.aten.index.Tensor:  # by whole numbers, its shape is that of the indices
        return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
    return bool(_OF_VALUES & set(func.tags))
