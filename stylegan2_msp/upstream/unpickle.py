"""The restricted unpickler: tensors, numbers, plain containers, and networks of the family as inert records."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylegan2_msp.errors import UserError
from stylegan2_msp.files import refuse_address
from stylegan2_msp.upstream.pickle_machine import Budget, Maker, PickleMachine, Refused

_MAX_FILE = 4 << 30
_SPARE = 1 << 20
_MAX_DIMS = 8
# How a storage begins that PyTorch put into a pickle (its own older format, with this number first). The newer one, a
# zip archive, never stands there, and could be packed to unfold into any amount of zeros.
_STORAGE_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_STORAGE_VERSION = 1001
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


@dataclass(frozen=True)
class ModuleRecord:
    """A pickled object of a persistent class: its name and state. The source code beside it is dropped unread."""

    class_name: str
    state: dict[Any, Any]


@dataclass(frozen=True)
class OwnRecord:
    """A network of this package in a pickle that `export --to reference` wrote; see `upstream.adapter`."""

    network: str
    init_kwargs: str  # JSON
    state: bytes  # safetensors


@dataclass(frozen=True)
class _Storage:
    values: torch.Tensor  # [n]


@dataclass(frozen=True)
class _Marker:
    """A name that can be passed as an argument and nothing else."""

    name: str


@dataclass
class _Dtype:
    """A numeric NumPy dtype."""

    dtype: np.dtype[Any]

    def build(self, state: Any) -> None:
        """Takes what a dtype of numbers has in addition: its byte order, and nothing structured."""
        plain = isinstance(state, tuple) and len(state) >= 5 and state[2:5] == (None, None, None)
        if not plain or state[1] not in ("<", "|", "="):
            raise Refused("it holds a NumPy type that is not plain numbers in the usual byte order")


@dataclass
class NumericArray:
    """A NumPy array of numbers."""

    values: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0))

    def build(self, state: Any) -> None:
        """Takes shape, type and bytes, which must agree."""
        if not (isinstance(state, tuple) and len(state) == 5):
            raise Refused("it holds a NumPy array in a form that is not known")
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise Refused("it holds a NumPy array that is not of numbers")
        sizes = _sizes(shape)
        if math.prod(sizes) * dtype.dtype.itemsize != len(raw):
            raise Refused("it holds a NumPy array whose shape does not fit its bytes")
        flat = np.frombuffer(raw, dtype.dtype)
        self.values = flat.reshape(sizes, order="F" if fortran is True else "C")


def read_pickle(path: str | Path) -> Any:
    """What a pickle holds, as dictionaries, lists, tuples, sets, text, numbers, bytes, tensors, arrays and records.

    Nothing that the file names is imported, called or executed.

    Raises:
        UserError: the file is missing, too large, damaged, or holds something else; says what.
    """
    path = Path(path)
    refuse_address(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the pickle of a network")
    size = path.stat().st_size
    if not 2 <= size <= _MAX_FILE:
        raise UserError(f"{path}: has {size} bytes; pickles of networks have some megabytes, and up to 4 GiB are read")
    try:
        return load_plain(memoryview(path.read_bytes()))
    except Refused as error:
        raise UserError(f"{path}: {error}; nothing of it was run{_advice(str(error))}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def load_plain(data: memoryview) -> Any:
    """The same for bytes in memory; raises `Refused`."""
    if data[:1] != b"\x80":
        named = " (it is a zip archive)" if data[:2] == b"PK" else ""
        raise Refused(f"it does not begin as a pickle of protocol 2 or later{named}, as this family's do")
    budget = Budget(3 * len(data) + _SPARE)
    return PickleMachine(data, {**_NAMES, **_counted(budget)}, budget).load()


def _advice(reason: str) -> str:
    return "; it is of the TensorFlow era: convert it with the checkout's legacy.py first" if "tflib" in reason else ""


def _counted(budget: Budget) -> dict[tuple[str, str], Maker]:
    """The names that make bytes out of what may be asked for repeatedly."""
    return {
        ("torch.storage", "_load_from_bytes"): Maker(lambda raw: _storage(raw, budget)),
        ("_codecs", "encode"): Maker(lambda text, encoding: _latin_bytes(text, encoding, budget)),
    }


def _storage(raw: Any, budget: Budget) -> _Storage:
    """A tensor's numbers from the bytes that PyTorch wrote for them: five small pickles, then count and data."""
    if not isinstance(raw, bytes) or not raw.startswith(_STORAGE_START):
        raise Refused("it holds a tensor in a form that pickles of networks do not have")
    budget.spend(len(raw))
    types = {("torch", name): _Marker(name) for name in _DTYPES}
    wanted: list[tuple[str, str, int]] = []

    def persistent(what: Any) -> None:
        kind, storage, name, _, count, view = what
        fits = isinstance(storage, _Marker) and isinstance(name, str) and type(count) is int and count >= 0
        if kind != "storage" or view is not None or not fits:
            raise Refused("it holds a tensor in a form that pickles of networks do not have")
        wanted.append((storage.name, name, count))

    machine = PickleMachine(memoryview(raw), types, budget, persistent)
    machine.load()
    version, machine_info = machine.load(), machine.load()
    machine.load()
    if version != _STORAGE_VERSION or machine_info.get("little_endian") is not True or len(wanted) != 1:
        raise Refused("it holds a tensor in a form that pickles of networks do not have")
    kind, name, count = wanted[0]
    if machine.load() != [name] or machine.number("<q") != count:
        raise Refused("it holds a tensor whose size is told in two ways")
    dtype = _DTYPES[kind]
    content = machine.take(count * dtype.itemsize)
    return _Storage(torch.frombuffer(bytearray(content), dtype=dtype) if count else torch.empty(0, dtype=dtype))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    sizes, strides = _sizes(size), _sizes(stride)
    if not isinstance(storage, _Storage) or len(sizes) != len(strides) or type(offset) is not int or offset < 0:
        raise Refused("it holds a tensor that is not described as one")
    held = storage.values.numel()
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    count = math.prod(sizes)
    if count > held or (count and last >= held):
        raise Refused(f"it claims a tensor of {list(sizes)[:4]} where {held} numbers are stored")
    return torch.as_strided(storage.values, sizes, strides, offset)


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > _MAX_DIMS or not all(type(v) is int and v >= 0 for v in value):
        raise Refused("it holds a shape that is none")
    return value


def _parameter(data: Any, *_: Any) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise Refused("it holds a parameter that is no tensor")
    return data


def _record(meta: Any) -> ModuleRecord:
    fits = isinstance(meta, dict) and isinstance(meta.get("state"), dict) and isinstance(meta.get("class_name"), str)
    if not fits or meta.get("type") != "class":
        raise Refused("it holds a persistent object without class and state")
    return ModuleRecord(meta["class_name"], meta["state"])


def _own(network: Any, init_kwargs: Any, state: Any) -> OwnRecord:
    if not (isinstance(network, str) and isinstance(init_kwargs, str) and isinstance(state, bytes)):
        raise Refused("it holds a network of this package in a form that is not known")
    return OwnRecord(network, init_kwargs, state)


def _set(items: Any = ()) -> set[Any]:
    if not isinstance(items, (list, tuple)) or len(items) > 1000 or not all(isinstance(v, (str, int)) for v in items):
        raise Refused("it holds a set of other things than text or numbers")
    return set(items)


def _dtype(code: Any, *_: Any) -> _Dtype:
    if not isinstance(code, str) or code not in (
        "b1",
        "i1",
        "i2",
        "i4",
        "i8",
        "u1",
        "u2",
        "u4",
        "u8",
        "f2",
        "f4",
        "f8",
    ):
        raise Refused("it holds a NumPy type that is not plain numbers in the usual byte order")
    return _Dtype(np.dtype(code))


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or len(raw) != dtype.dtype.itemsize:
        raise Refused("it holds a NumPy number that is none")
    return np.frombuffer(raw, dtype.dtype)[0].item()


def _latin_bytes(text: Any, encoding: Any, budget: Budget) -> bytes:
    """Bytes as protocol 2 writes them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refused("it holds encoded text in a form that is not known")
    budget.spend(len(text))
    return text.encode("latin1")


def _empty_dict() -> dict[Any, Any]:
    return {}


def _empty_bytes() -> bytes:
    return b""


def _empty_array(*_: Any) -> NumericArray:
    return NumericArray()


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Maker(_empty_dict),
    ("dnnlib.util", "EasyDict"): Maker(_empty_dict),
    ("builtins", "set"): Maker(_set),
    ("__builtin__", "set"): Maker(_set),
    ("__builtin__", "bytes"): Maker(_empty_bytes),
    ("numpy", "dtype"): Maker(_dtype),
    ("numpy", "ndarray"): _Marker("ndarray"),
    ("torch._utils", "_rebuild_tensor_v2"): Maker(_tensor),
    ("torch._utils", "_rebuild_parameter"): Maker(_parameter),
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Maker(_record),
    ("stylegan2_msp.upstream.adapter", "rebuild"): Maker(_own),
}
for _core in ("numpy.core", "numpy._core"):
    _NAMES[f"{_core}.multiarray", "scalar"] = Maker(_scalar)
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = Maker(_empty_array)
