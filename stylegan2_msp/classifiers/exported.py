"""Reading .pt2 files (torch.export) without torch.export.load, which would unpickle and evaluate what is in them.

The JSON graph becomes plain data for `Program`; raw weights are copied; pickled weights of older files go through
torch.load(weights_only=True). Sample inputs, shape expressions and guards are never looked at. Layouts: one folder with
models/model.json and data/ (torch >= 2.8), and serialized_exported_program.json (torch 2.6 and 2.7).
"""

from __future__ import annotations

import io
import json
import math
import re
import warnings
import zipfile
from typing import Any

import torch

from stylegan2_msp.classifiers.foreign import SAVE_PROGRAM, refuse_foreign
from stylegan2_msp.classifiers.operators import IGNORED
from stylegan2_msp.classifiers.program import DTYPES
from stylegan2_msp.errors import UserError

_OLD_GRAPH, _NEW_GRAPH = "serialized_exported_program.json", "models/model.json"
_KNOWN_MEMBERS = re.compile(
    r"models/model\.json|data/(weights|constants|sample_inputs)/[\w.]+|archive_format|archive_version|byteorder"
    r"|\.data/\w+|\.format_version|\.storage_alignment|version|extra(_files)?/.*"
    r"|serialized_(exported_program\.json|(state_dict|constants|example_inputs)\.pt)"
)
# Numbers that the format gives to types (torch/_export/serde/schema.py).
_SCALAR_TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
                 12: "bool", 13: "bfloat16"}  # fmt: skip
_MEMORY_FORMATS = {1: "contiguous_format", 2: "channels_last", 3: "channels_last_3d", 4: "preserve_format"}
_STRIDED = 7


def read_exported(data: bytes, source: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[int | None]]:
    """Takes a .pt2 file apart.

    Returns:
        graph: as `Program` wants it.
        weights: its buffers.
        shape: of the input, None where any size goes.

    Raises:
        UserError: not a .pt2, damaged, or something in it is not allowed; the message begins with ``source``.
    """
    members = _read_members(data, source)
    try:
        old = _OLD_GRAPH in members
        program = json.loads(members[_OLD_GRAPH if old else _NEW_GRAPH])
        module = program["graph_module"]
        tensors = _read_tensors(members, old, source)
        return _convert(module["graph"], module["signature"], tensors, source)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError):
        raise UserError(f"{source}: the exported program in it is malformed; export the model again") from None


def _read_members(data: bytes, source: str) -> dict[str, bytes]:
    """Every member under its name without the root folder; stored members only, so that none can blow up."""
    refuse_foreign(data, source)
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            root = names[0].split("/")[0] + "/" if names and _OLD_GRAPH not in names else ""
            for info in infos:
                name = info.filename.removeprefix(root)
                if not info.filename.startswith(root) or not _KNOWN_MEMBERS.fullmatch(name) or name in members:
                    raise UserError(f"{source}: unexpected member {info.filename!r}; only torch.export.save's are read")
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(data):
                    raise UserError(f"{source}: member {info.filename!r} is compressed; torch.export.save stores them")
                members[name] = archive.read(info)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        raise UserError(f"{source}: not a .pt2 file, or truncated; export it again: {SAVE_PROGRAM}") from None
    if _OLD_GRAPH not in members and _NEW_GRAPH not in members:
        raise UserError(f"{source}: a zip, but no program of torch.export.save is in it; export the model again")
    return members


def _read_tensors(members: dict[str, bytes], old: bool, source: str) -> dict[str, torch.Tensor]:
    """All parameters, buffers and constants by their names in the model."""
    tensors: dict[str, torch.Tensor] = {}
    for folder, kind in (("weights", "state_dict"), ("constants", "constants")):
        pickled = f"serialized_{kind}.pt" if old else f"data/{folder}/model.pt"
        if pickled in members:
            tensors |= _unpickle_tensors(members[pickled], pickled, source)
        elif not old:
            config = json.loads(members[f"data/{folder}/model_{folder}_config.json"])["config"]
            for name, payload in config.items():
                tensors[name] = _raw_tensor(payload, members, f"data/{folder}/", name, source)
    return tensors


def _unpickle_tensors(data: bytes, member: str, source: str) -> dict[str, torch.Tensor]:
    if not data:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles, which are refused below
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:
        loaded = None
    if not isinstance(loaded, dict) or not all(type(k) is str and torch.is_tensor(v) for k, v in loaded.items()):
        raise UserError(f"{source}: {member!r} holds something other than plain tensors; it is not loaded")
    return {name: tensor.detach() for name, tensor in loaded.items()}


def _raw_tensor(
    payload: dict[str, Any], members: dict[str, bytes], folder: str, name: str, source: str
) -> torch.Tensor:
    path, meta = payload["path_name"], payload["tensor_meta"]
    if payload["use_pickle"] or meta is None:
        raise UserError(f"{source}: {name!r} is a pickled object, only plain tensors are loaded; export it without")
    dtype = DTYPES[_SCALAR_TYPES[meta["dtype"]]]
    sizes, strides = [_plain(v) for v in meta["sizes"]], [_plain(v) for v in meta["strides"]]
    offset = _plain(meta["storage_offset"])
    if min([offset, *sizes, *strides]) < 0 or len(sizes) != len(strides):
        raise ValueError
    if math.prod(sizes) == 0:
        return torch.empty(sizes, dtype=dtype)
    raw = members[folder + path]
    reach = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    if reach > len(raw) // dtype.itemsize:
        raise UserError(f"{source}: the weights {name!r} are cut short; export the model again")
    flat = torch.frombuffer(bytearray(raw), dtype=dtype, count=len(raw) // dtype.itemsize)
    return flat.as_strided(sizes, strides, offset).clone()


def _plain(size: dict[str, Any]) -> int:
    value = size["as_int"]
    if type(value) is not int:
        raise ValueError
    return value


def _convert(
    graph: dict[str, Any], signature: dict[str, Any], tensors: dict[str, torch.Tensor], source: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[int | None]]:
    weights: dict[str, Any] = {}
    buffers: dict[str, torch.Tensor] = {}
    user_inputs: list[str] = []
    for spec in signature["input_specs"]:
        ((kind, value),) = _given(spec)
        if kind == "user_input":
            user_inputs += [value["arg"]["as_tensor"]["name"]] if "as_tensor" in value["arg"] else []
        elif kind in ("parameter", "buffer", "tensor_constant"):
            tensor, buffer = tensors[value[f"{kind}_name"]], f"w{len(weights)}"
            dtype = str(tensor.dtype).removeprefix("torch.")
            weights[value["arg"]["name"]] = [buffer, dtype, list(tensor.shape)]
            buffers[buffer] = tensor
        elif kind != "constant_input":
            raise UserError(f"{source}: its graph takes a {kind}; only tensors and plain weights can be loaded")
    if len(user_inputs) != 1:
        raise UserError(f"{source}: its program takes {len(user_inputs)} tensors, expected one batch of images")
    meta = graph["tensor_values"][user_inputs[0]]
    if _SCALAR_TYPES.get(meta["dtype"]) != "float32":
        found = _SCALAR_TYPES.get(meta["dtype"], "unknown")
        raise UserError(f"{source}: its program takes {found} images; export it with a float32 example")
    shape = [size.get("as_int") for size in meta["sizes"]]
    converted = {
        "input": user_inputs[0],
        "output": _only_output(signature, source),
        "batch": shape[0] if shape else None,
        "weights": weights,
        "nodes": [n for n in (_node(node, source) for node in graph["nodes"]) if n],
    }
    return converted, buffers, shape


def _given(union: dict[str, Any]) -> list[tuple[str, Any]]:
    """The one field that a union sets (some versions write the others as null)."""
    items = [(key, value) for key, value in union.items() if value is not None]
    return items if items else list(union.items())[:1]


def _only_output(signature: dict[str, Any], source: str) -> str:
    outputs = [_given(spec)[0] for spec in signature["output_specs"]]
    if any(kind != "user_output" for kind, _ in outputs):
        raise UserError(f"{source}: its program changes its own state when run; call model.eval() before torch.export")
    if len(outputs) != 1 or "as_tensor" not in outputs[0][1]["arg"]:
        raise UserError(f"{source}: its program returns {len(outputs)} values, expected one tensor [N, K] of logits")
    return outputs[0][1]["arg"]["as_tensor"]["name"]


def _node(node: dict[str, Any], source: str) -> list[Any] | None:
    """One operator as [name, arguments, results]; None for checks that compute nothing."""
    target = node["target"]
    name = target.removeprefix("torch.ops.")
    if ".".join(name.split(".")[:2]) in IGNORED:
        return None
    if target.startswith(("_operator.", "operator.")):
        name = "size." + target.split(".", 1)[1]
    elif not target.startswith("torch.ops.aten."):
        raise UserError(f"{source}: its graph calls {target!r}; only PyTorch's own tensor operators are run")
    args = {item["name"]: _argument(item["arg"], target, source) for item in node["inputs"]}
    results = [_argument(item, target, source) for item in node["outputs"]]
    if len(results) == 1 and isinstance(results[0], dict):
        return [name, args, results[0]["ref"]]
    parts = results[0] if len(results) == 1 else results
    return [name, args, [part["ref"] for part in parts]]


def _argument(union: dict[str, Any], target: str, source: str) -> Any:
    ((kind, value),) = _given(union)
    if kind == "as_none":
        return None
    if kind in ("as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings", "as_int_lists"):
        return value
    if kind == "as_float":
        return float(value)
    if kind == "as_floats":
        return [float(item) for item in value]
    if kind == "as_tensor":
        return {"ref": value["name"]}
    if kind == "as_name":
        return {"ref": value}
    if kind == "as_tensors":
        return [{"ref": item["name"]} for item in value]
    if kind in ("as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor"):
        return _argument(value, target, source)
    if kind in ("as_sym_ints", "as_sym_bools", "as_sym_floats", "as_optional_tensors"):
        return [_argument(item, target, source) for item in value]
    if kind == "as_scalar_type":
        return {"dtype": _SCALAR_TYPES[value]}
    if kind == "as_memory_format":
        return {"memory_format": _MEMORY_FORMATS[value]}
    if kind == "as_layout" and value == _STRIDED:
        return {"layout": "strided"}
    if kind == "as_device":
        return {"device": "input"}
    raise UserError(f"{source}: an argument of {target!r} in its graph is a {kind.removeprefix('as_')}, not supported")
