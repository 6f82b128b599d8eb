"""The restricted unpickler against pickles that try to run something, to exhaust the machine, or are damaged."""

from __future__ import annotations

import collections
import copyreg
import io
import os
import pickle
import struct
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylegan2_msp.errors import UserError
from stylegan2_msp.upstream import pickle_machine, unpickle
from stylegan2_msp.upstream.pickle_machine import Refused
from stylegan2_msp.upstream.unpickle import NumericArray, load_plain, read_pickle


class Calls:
    """Pickles as a call of `function` with `args`, and whatever else a reduction may have."""

    def __init__(self, function: Any, *args: Any, rest: tuple[Any, ...] = ()) -> None:
        self.reduction = (function, args, *rest)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduction


def storage_bytes(values: torch.Tensor) -> bytes:
    """What PyTorch puts into pickles for a tensor's numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (_, (raw,)) = values.storage().__reduce__()
    return raw


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def load(data: bytes) -> Any:
    return load_plain(memoryview(data))


LOAD_STORAGE = named("torch.storage", "_load_from_bytes")
TENSOR = named("torch._utils", "_rebuild_tensor_v2")


def runs_something(canary: Path) -> dict[str, bytes]:
    """Pickles that create the file `canary` where Python's own unpickler reads them."""
    command = f"touch {canary}"
    evil = Calls(os.system, command)
    found = {f"system in protocol {p}": pickle.dumps(evil, protocol=p) for p in range(6)}
    found["nested in a dictionary"] = pickle.dumps({"G_ema": [{"a": (1, evil)}]}, protocol=4)
    found["nested in a tensor's arguments"] = pickle.dumps(Calls(torch._utils._rebuild_tensor_v2, evil, 0, (1,), (1,)))
    found["as a storage"] = pickle.dumps(Calls(torch.storage._load_from_bytes, pickle.dumps(evil, protocol=2)))
    found["in a storage of newer form"] = _in_zip(evil)
    found["as a storage's key"] = _storage_with(evil)
    found["eval"] = pickle.dumps(Calls(eval, f"__import__('os').system({command!r})"))
    found["exec"] = pickle.dumps(Calls(exec, f"open({str(canary)!r}, 'w')"))
    found["open"] = pickle.dumps(Calls(open, str(canary), "w"))
    found["getattr chain"] = _chain(command)
    found["dotted name"] = opcodes(named("torch.storage", "os.system"), text(command), b"\x85R")
    found["state of an allowed name"] = pickle.dumps(
        Calls(collections.OrderedDict, rest=({"__setstate__": os.system}, None, None))
    )
    found["state setter"] = pickle.dumps(Calls(collections.OrderedDict, rest=(command, None, None, os.system)))
    found["items of another kind"] = pickle.dumps(Calls(collections.OrderedDict, rest=(None, None, iter([(1, evil)]))))
    found["class of the family by its module"] = pickle.dumps(torch.nn.Linear(1, 1))
    found["array of objects"] = pickle.dumps(np.array([evil], dtype=object))
    found["INST"] = b"\x80\x02(" + text(command) + b"ios\nsystem\n."
    found["OBJ"] = b"\x80\x02(cos\nsystem\n" + text(command) + b"o."
    found["NEWOBJ"] = opcodes(named("os", "system"), text(command), b"\x85\x81")
    found["NEWOBJ_EX"] = opcodes(named("collections", "OrderedDict"), b")}\x92")
    found["name kept for later"] = opcodes(b"(", named("posix", "system"), b"0", text(command), b"\x85R")
    return found


def _chain(command: str) -> bytes:
    imported = named("builtins", "__import__") + text("os") + b"\x85R"
    return opcodes(named("builtins", "getattr"), imported, text("system"), b"\x86R", text(command), b"\x85R")


def _in_zip(evil: Any) -> bytes:
    file = io.BytesIO()
    torch.save(evil, file)
    return pickle.dumps(Calls(torch.storage._load_from_bytes, file.getvalue()))


def _storage_with(evil: Any) -> bytes:
    good = storage_bytes(torch.zeros(2))
    start = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    assert good.startswith(start)
    return pickle.dumps(Calls(torch.storage._load_from_bytes, start + pickle.dumps(evil, protocol=2)))


@pytest.mark.parametrize("kind", list(runs_something(Path("canary"))))
def test_nothing_runs(kind: str, tmp_path: Path, import_cli: Callable[..., tuple[int, str, str]]) -> None:
    canary, file = tmp_path / "canary", tmp_path / "network.pkl"
    file.write_bytes(runs_something(canary)[kind])
    code, out, err = import_cli(file)
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert err.startswith(f"error: {file}: ")
    assert "nothing of it was run" in err
    assert not canary.exists()
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.fixture
def import_cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls `import`: import_cli('x.pkl') -> (exit code, standard output, its errors)."""
    from stylegan2_msp.cli import run
    from stylegan2_msp.cli.main import main

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stylegan2-msp", "import", *map(str, args)])
        code = 0
        try:
            run(main)
        except SystemExit as error:
            code = int(error.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_the_canaries_would_sing(tmp_path: Path) -> None:
    """Python's own unpickler runs these, so that the test above tests something."""
    canary = tmp_path / "canary"
    for kind in ("system in protocol 0", "system in protocol 5", "nested in a dictionary", "eval", "getattr chain"):
        pickle.loads(runs_something(canary)[kind])
        canary.unlink()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (pickle.dumps(Calls(os.system, "true")), "posix.system"),
        (pickle.dumps(torch.nn.Linear(1, 1)), "torch.nn.modules.linear.Linear"),
        (opcodes(named("dnnlib.tflib.network", "Network")), "legacy.py"),
        (opcodes(named("evil\nname\x1b[31m", "x" * 500)), "evil\\\\nname\\\\x1b"),
        (b"PK\x03\x04" + bytes(20), "zip archive"),
        (pickle.dumps([1], protocol=0), "protocol 2 or later"),
        (b"\x80\x63N.", "protocol 99"),
    ],
)
def test_what_is_refused_is_named(data: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(UserError, match=told) as caught:
        read_pickle(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.fixture
def extension() -> Any:
    copyreg.add_extension("posix", "system", 1)
    yield
    copyreg.remove_extension("posix", "system", 1)


@pytest.mark.parametrize("code", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"])
def test_extension_registry(extension: Any, code: bytes) -> None:
    assert pickle.loads(b"\x80\x02" + code + b".") is os.system
    with pytest.raises(Refused, match="opcode EXT"):
        load(b"\x80\x02" + code + b".")


@pytest.mark.parametrize("code", [b"Pid\n", b"N\x51", b"\x97", b"I1\n", b"S'a'\n", b"F1\n", b"g0\n", b"\xff"])
def test_opcodes_that_networks_do_not_need(code: bytes) -> None:
    with pytest.raises(Refused, match=r"opcode|persistent id"):
        load(b"\x80\x02" + code + b".")


def exhausts() -> dict[str, bytes]:
    """Pickles that claim, or unfold into, more than any machine has."""
    good = storage_bytes(torch.arange(4.0))
    count = good.rindex(struct.pack("<q", 4))
    many = good.replace(b"K\x04Nt", b"J\xff\xff\xff\x7fNt")
    assert many != good
    raw = b"B" + struct.pack("<I", len(good)) + good
    big = b"B" + struct.pack("<I", 100_000) + bytes(100_000)
    tensor = TENSOR + b"(" + LOAD_STORAGE + raw + b"\x85RK\x00"
    shape = b"\x8a\x05" + struct.pack("<Q", 1 << 36)[:5]
    doubled = b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(40))
    encode = named("_codecs", "encode")
    record = named("torch_utils.persistence", "_reconstruct_persistent_obj")
    return {
        "bytes": opcodes(b"\x8e" + struct.pack("<Q", 1 << 62)),
        "bytearray": opcodes(b"\x96" + struct.pack("<Q", 1 << 62)),
        "text": opcodes(b"\x8d" + struct.pack("<Q", 1 << 40)),
        "integer": opcodes(b"\x8b" + struct.pack("<I", 1 << 31)),
        "memory slot": opcodes(b"Nr" + struct.pack("<I", 0xFFFFFFFF), b"0", b"j" + struct.pack("<I", 5)),
        "tensor": opcodes(tensor, shape, b"\x85", shape, b"\x85\x89Nt", b"R"),
        "tensor without strides": opcodes(tensor, shape, b"\x85K\x00\x85\x89Nt", b"R"),
        "storage": opcodes(
            LOAD_STORAGE,
            b"B" + struct.pack("<I", len(good)) + good[:count] + struct.pack("<q", 1 << 60) + good[count + 8 :],
            b"\x85R",
        ),
        "storage of many": opcodes(
            LOAD_STORAGE,
            b"B",
            struct.pack("<I", len(good)),
            good.replace(b"K\x04Nt", b"J\xff\xff\xff\x7fNt")[: len(good)],
            b"\x85R",
        ),
        "storage again and again": opcodes(raw, b"q\x000(", (LOAD_STORAGE + b"h\x00\x85R") * 2000, b"t"),
        "bytes out of text": opcodes(
            text("a" * 100_000),
            b"q\x000(",
            (encode + b"h\x00" + text("latin1") + b"\x86R") * 3000,
            b"t",
        ),
        "array": opcodes(big, b"0", named("numpy", "dtype"), text("f8"), b"\x85R"),
        "doubling lists": opcodes(b"]q\x000", doubled, b"0" * 39),
        "lists in lists": opcodes(b"(" * 100_000, b"t" * 100_000),
        "steps": opcodes(b"N0" * 30_000),
        "deep module": opcodes(
            record * 3000, b"}" + text("class_name") + text("A") + b"s", (text("state") + b"}s\x85R") * 3000
        ),
        "key with a long way to go": opcodes(b"}(", b"(" * 1000, b"t" * 1000, b"Nu"),
        "name": b"\x80\x02c" + b"a" * 100_000 + b"\nb\n.",
    }


@pytest.mark.parametrize("kind", list(exhausts()))
def test_little_memory_and_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "steps":
        monkeypatch.setattr(pickle_machine, "_MAX_STEPS", 50_000)
    data = exhausts()[kind]
    tracemalloc.start()
    clock = time.process_time()
    try:
        value = load(data)
    except Refused:
        value = None
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 20 * len(data) + (64 << 20)
    assert time.process_time() - clock < 30
    if kind in ("bytes", "text", "integer", "tensor", "storage", "storage of many", "steps", "bytes out of text"):
        assert value is None


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pkl"
    with open(path, "wb") as file:
        file.truncate(5 << 30)
    with pytest.raises(UserError, match="5368709120 bytes"):
        read_pickle(path)
    monkeypatch.setattr(unpickle, "_MAX_FILE", 10)
    path.write_bytes(bytes(11))
    with pytest.raises(UserError, match="11 bytes"):
        read_pickle(path)


def plain_values() -> dict[str, Any]:
    return {
        "none": None,
        "numbers": [True, False, 0, 255, 65535, -1, 2**31, -(2**70), 1.5, float("inf")],
        "text": ("a", "ü" * 300, "\ud800"),
        "bytes": [b"", b"x" * 300],
        "sets": ({1, 2}, frozenset(["a"])),
        "nested": {"a": [{"b": ((), [], {})}]},
        "shared": [[1]] * 3,
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_comes_back(protocol: int) -> None:
    value = plain_values()
    if protocol < 4:
        value.pop("sets")  # frozen sets are calls there
        value["sets"] = {1, 2}
    assert load(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_come_back(protocol: int) -> None:
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    value = {
        "float": base,
        "half": base.half(),
        "bfloat": base.bfloat16(),
        "ints": torch.arange(5),
        "bools": base > 0,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "part": base[1:3, ::2],
        "turned": base.t(),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "learned": torch.nn.Parameter(base),
        "double": base.double(),
    }
    back = load(pickle.dumps(value, protocol=protocol))
    assert all(
        torch.equal(back[name], tensor.detach()) and back[name].dtype == tensor.dtype for name, tensor in value.items()
    )


@pytest.mark.parametrize("protocol", [2, 4])
def test_numbers_of_numpy_come_back(protocol: int) -> None:
    value = {
        "a": np.float64(1.5),
        "b": np.int64(3),
        "c": np.arange(6.0).reshape(2, 3),
        "d": np.asfortranarray(np.eye(2, 3)),
    }
    back = load(pickle.dumps(value, protocol=protocol))
    assert (back["a"], back["b"]) == (1.5, 3)
    assert isinstance(back["c"], NumericArray)
    assert np.array_equal(back["c"].values, value["c"])
    assert np.array_equal(back["d"].values, value["d"])


@pytest.fixture(scope="module")
def sample() -> bytes:
    """A pickle with all that networks have."""
    return pickle.dumps({**plain_values(), "w": torch.randn(3), "n": np.float64(2), "a": np.eye(2)}, protocol=4)


def test_truncated_anywhere(sample: bytes) -> None:
    for end in range(2, len(sample), 3):
        with pytest.raises(Refused):
            load(sample[:end])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_anywhere(sample: bytes, changes: list[tuple[int, int]]) -> None:
    """Whatever bytes are there: plain data or a refusal, and never another exception."""
    data = bytearray(sample)
    for place, value in changes:
        data[2 + place % (len(data) - 2)] = value
    with suppress(Refused):
        load(bytes(data))
