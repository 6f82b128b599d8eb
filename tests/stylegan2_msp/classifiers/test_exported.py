"""Exported programs: replayed exactly as the model computes, in every layout, and nothing hostile in them runs."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stylegan2_msp.classifiers.exported import read_exported
from stylegan2_msp.classifiers.program import Program
from stylegan2_msp.errors import UserError

Members = dict[str, bytes]
MODEL = "archive/models/model.json"
WEIGHTS = "archive/data/weights/model_weights_config.json"
CONSTANTS = "archive/data/constants/model_constants_config.json"


class Small(nn.Module):
    """Many things that real classifiers hold: batch norm, in-place ReLU, dropout, buffers, constants, sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout()
        self.head = nn.Linear(4 * 9, 5)
        self.register_buffer("k", torch.ones(3), persistent=False)
        self.temperature = torch.tensor(2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.relu(self.norm(self.conv(x))))
        x = nn.functional.adaptive_avg_pool2d(x, 3) * self.k.sum() + torch.tensor(1.5)
        left, right = x.view(x.size(0), -1).chunk(2, dim=1)
        return self.head(torch.cat([left, right], dim=1)) / self.temperature


def exported(model: nn.Module, x: torch.Tensor, dynamic: bool = True, decompose: bool = False) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("batch", max=1024)},) if dynamic else None
        program = torch.export.export(model, (x,), dynamic_shapes=shapes, strict=False)
        torch.export.save(program.run_decompositions() if decompose else program, buffer)
    return buffer.getvalue()


def small() -> Small:
    torch.manual_seed(0)
    model = Small().eval()
    model.norm.running_mean.uniform_(-1, 1)
    return model


@pytest.fixture(scope="module")
def pt2() -> bytes:
    return exported(small(), torch.zeros(2, 1, 8, 8))


def loaded(data: bytes) -> Program:
    graph, weights, _ = read_exported(data, "m.pt2")
    program = Program(json.loads(json.dumps(graph)), "m.pt2")
    program.load_state_dict(weights)
    return program


def members_of(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def newest(data: bytes) -> Members:
    """The files of a program in the layout that torch has written since 2.10, which tests change; older ones skip."""
    members = members_of(data)
    if WEIGHTS not in members:
        pytest.skip("this torch writes an older layout")
    return members


def packed(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def edited(data: bytes, edit: Callable[[Any], None], member: str = MODEL) -> bytes:
    """The same file with the JSON of one member changed."""
    members = newest(data)
    content = json.loads(members[member])
    edit(content)
    return packed({**members, member: json.dumps(content).encode()})


def assert_same(program: Program, model: nn.Module, x: torch.Tensor) -> None:
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = program(ours), model(theirs)
    torch.testing.assert_close(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_values_and_gradients_are_the_models(pt2: bytes) -> None:
    assert_same(loaded(pt2), small(), torch.randn(5, 1, 8, 8))


def test_decomposed_programs_are_read_too() -> None:
    data = exported(small(), torch.zeros(2, 1, 8, 8), decompose=True)
    assert_same(loaded(data), small(), torch.randn(3, 1, 8, 8))


@pytest.mark.parametrize("count", [1, 4, 11])
def test_a_fixed_batch_is_filled_up(count: int) -> None:
    program = loaded(exported(small(), torch.zeros(4, 1, 8, 8), dynamic=False))
    assert program.batch == 4
    assert_same(program, small(), torch.randn(count, 1, 8, 8))


class Unusual(nn.Module):
    """Weights in two parts, norms across channels, cosine heads, and the other ways to write a transposition."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))
        self.second = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))
        self.rest = nn.Sequential(nn.LocalResponseNorm(3), nn.Upsample(scale_factor=2, mode="nearest-exact"))
        self.classes = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rest(self.second(self.first(x))).mean(dim=(2, 3))
        cosine = nn.functional.cosine_similarity(x[:, None], self.classes[None], dim=-1)
        return cosine + x @ self.classes.T + x @ self.classes.mT + x @ self.classes.swapaxes(0, 1)


def test_normalised_weights_and_cosine_heads_are_read() -> None:
    torch.manual_seed(0)
    model = Unusual().eval()
    assert_same(loaded(exported(model, torch.zeros(2, 1, 8, 8))), model, torch.randn(3, 1, 8, 8))


@pytest.mark.slow
def test_transformers_are_read() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 16, 4, 4)
            self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.head = nn.Linear(16, 5)
            self.token = nn.Parameter(torch.randn(1, 1, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.patches(x).flatten(2).transpose(1, 2)
            return self.head(self.block(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))[:, 0])

    model = Attention().eval()
    assert_same(loaded(exported(model, torch.zeros(2, 3, 8, 8))), model, torch.randn(3, 3, 8, 8))


def as_older(data: bytes, old: bool) -> bytes:
    """The layout of torch 2.6 and 2.7 (old) or of 2.8 and 2.9, where weights are a pickled state dict."""
    model, members = small(), newest(data)
    kinds: list[dict[str, torch.Tensor]] = [
        dict(model.state_dict()),
        {"k": model.k, "temperature": model.temperature, "lifted_tensor_0": torch.tensor(1.5)},
    ]
    pickled = []
    for tensors in kinds:
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        pickled.append(buffer.getvalue())
    if old:
        program = json.loads(members[MODEL])
        for node in program["graph_module"]["graph"]["nodes"]:  # that version did not write these
            node.pop("name", None)
            node.pop("is_hop_single_tensor_return", None)
            for item in node["inputs"]:
                item.pop("kind", None)
        return packed(
            {
                "version": b"8.2",
                "serialized_exported_program.json": json.dumps(program).encode(),
                "serialized_state_dict.pt": pickled[0],
                "serialized_constants.pt": pickled[1],
                "serialized_example_inputs.pt": b"never read",
            }
        )
    return packed(
        {
            "archive/archive_format": b"pt2",
            MODEL: members[MODEL],
            "archive/data/weights/model.pt": pickled[0],
            "archive/data/constants/model.pt": pickled[1],
            "archive/data/sample_inputs/model.pt": b"never read",
        }
    )


@pytest.mark.parametrize("old", [True, False])
def test_older_layouts_are_read(pt2: bytes, old: bool) -> None:
    assert_same(loaded(as_older(pt2, old)), small(), torch.randn(2, 1, 8, 8))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def bombs(path: Path) -> list[bytes]:
    buffer = io.BytesIO()
    torch.save({"conv.weight": Bomb(path)}, buffer)
    return [pickle.dumps(Bomb(path)), buffer.getvalue()]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(
    ("layout", "member"),
    [
        ("old", "serialized_state_dict.pt"),
        ("old", "serialized_constants.pt"),
        ("middle", "archive/data/weights/model.pt"),
        ("middle", "archive/data/constants/model.pt"),
    ],
)
def test_pickled_code_does_not_run(pt2: bytes, tmp_path: Path, layout: str, member: str, kind: int) -> None:
    mark = tmp_path / "ran"
    members = members_of(as_older(pt2, layout == "old"))
    members[member] = bombs(mark)[kind]
    with pytest.raises(UserError, match="other than plain tensors"):
        read_exported(packed(members), "m.pt2")
    assert not mark.exists()


@pytest.mark.parametrize("config", [WEIGHTS, CONSTANTS])
def test_pickled_payloads_of_the_new_layout_do_not_run(pt2: bytes, tmp_path: Path, config: str) -> None:
    mark = tmp_path / "ran"
    members = newest(pt2)
    content = json.loads(members[config])
    payload = next(iter(content["config"].values()))
    payload["use_pickle"] = True
    members[config.rpartition("/")[0] + "/" + payload["path_name"]] = bombs(mark)[0]
    members[config] = json.dumps(content).encode()
    with pytest.raises(UserError, match="pickled object"):
        read_exported(packed(members), "m.pt2")
    assert not mark.exists()


def test_sample_inputs_and_expressions_are_never_evaluated(pt2: bytes, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    def plant(program: Any) -> None:
        graph = program["graph_module"]["graph"]
        for meta in graph["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code
        for value in graph["sym_int_values"].values():
            value["as_expr"]["expr_str"] = code
        program["range_constraints"] = {code: {"min_val": 1, "max_val": None}}
        program["guards_code"] = [code]

    members = members_of(edited(pt2, plant))
    members["archive/data/sample_inputs/model.pt"] = bombs(mark)[0]
    assert_same(loaded(packed(members)), small(), torch.randn(2, 1, 8, 8))
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.rand_like.default",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.add.out",
        "torch.ops.aten.add.no_such_overload",
        "torch.ops.aten.__class__.default",
        "torch.ops.profiler._record_function_enter_new.default",
        "torch.ops.higher_order.cond",
        "builtins.eval",
        "os.system",
        "_operator.attrgetter",
        "_operator.pow",
    ],
)
def test_other_operators_are_refused(pt2: bytes, target: str) -> None:
    def swap(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][1]["target"] = target

    with pytest.raises(UserError, match=r"m\.pt2: its graph (uses|calls)") as error:
        loaded(edited(pt2, swap))
    assert "\n" not in str(error.value)


def change_node(name: str, argument: str, value: Any) -> Callable[[Any], None]:
    def change(program: Any) -> None:
        for node in program["graph_module"]["graph"]["nodes"]:
            for item in node["inputs"]:
                if f".{name}." in node["target"] and item["name"] == argument:
                    item["arg"] = value

    return change


def test_training_mode_is_refused(pt2: bytes) -> None:
    for name, flag in (("dropout", "train"), ("batch_norm", "training")):
        with pytest.raises(UserError, match=r"call model\.eval\(\)"):
            loaded(edited(pt2, change_node(name, flag, {"as_bool": True})))
    with pytest.raises(UserError, match=r"call model\.eval\(\)"):
        loaded(exported(small().train(), torch.zeros(2, 1, 8, 8), decompose=True))


def test_changing_a_weight_in_place_is_refused(pt2: bytes) -> None:
    with pytest.raises(UserError, match="changes its own weights"):
        loaded(edited(pt2, change_node("relu_", "self", {"as_tensor": {"name": "b_norm_running_mean"}})))


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p.clear(),
        lambda p: p["graph_module"]["graph"].update(nodes=[{}]),
        lambda p: p["graph_module"]["graph"]["nodes"].pop(1),
        lambda p: p["graph_module"]["graph"]["nodes"].reverse(),
        lambda p: p["graph_module"]["signature"].update(input_specs=[{"parameter": None}]),
        lambda p: p["graph_module"]["signature"]["input_specs"][0]["parameter"].update(parameter_name="gone"),
        lambda p: p["graph_module"]["signature"]["output_specs"][0]["user_output"]["arg"]["as_tensor"].update(name="?"),
        change_node("conv2d", "input", {"as_tensor": {"name": []}}),
        change_node("conv2d", "input", {"as_tensor": {"name": "not_yet"}}),
        change_node("conv2d", "input", 3),
    ],
)
def test_malformed_graphs_are_one_line(pt2: bytes, edit: Callable[[Any], None]) -> None:
    with pytest.raises(UserError, match=r"m\.pt2.*malformed") as error:
        loaded(edited(pt2, edit))
    assert "\n" not in str(error.value)


def test_weights_that_do_not_reach_are_refused(pt2: bytes) -> None:
    def stretch(config: Any) -> None:
        config["config"]["head.weight"]["tensor_meta"]["strides"][0]["as_int"] = 1000

    with pytest.raises(UserError, match=r"'head\.weight' are cut short"):
        loaded(edited(pt2, stretch, WEIGHTS))


def test_only_one_image_tensor_and_one_output() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            return x.sum((1, 2, 3)), x.mean((1, 2, 3))

    with pytest.raises(UserError, match="returns 2 values"):
        read_exported(exported(Two(), torch.zeros(2, 1, 4, 4)), "m.pt2")


def test_other_files_are_one_line(pt2: bytes) -> None:
    members = members_of(pt2)
    saved = io.BytesIO()
    torch.save(small().state_dict(), saved)
    cases = {
        "not a .pt2": [b"", b"hello", pt2[: len(pt2) // 2]],
        "is a pickle": [saved.getvalue(), pickle.dumps([1])],
        "unexpected member": [
            packed({**members, "archive/data/aotinductor/model/x.so": b"ELF"}),
            packed({**members, "archive/../../evil": b""}),
        ],
        "compressed": [packed(members, zipfile.ZIP_DEFLATED)],
        "no program": [packed({"archive/archive_format": b"pt2"})],
    }
    for message, files in cases.items():
        for data in files:
            with pytest.raises(UserError, match=message) as error:
                read_exported(data, "m.pt2")
            assert "\n" not in str(error.value)
