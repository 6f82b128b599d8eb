"""What `export` writes: run, read back and, where a checkout is at hand, loaded by it."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from stylegan2_msp.cli.export import export
from stylegan2_msp.errors import UserError
from stylegan2_msp.generation import ConditionalGenerator, load_generator
from stylegan2_msp.networks import build_network
from stylegan2_msp.snapshot import load_snapshot, save_snapshot
from stylegan2_msp.training.launch import start
from stylegan2_msp.training.plan import Machine
from stylegan2_msp.upstream import export_traced
from stylegan2_msp.upstream.export_reference import export_reference
from stylegan2_msp.upstream.export_traced import export_onnx, export_torch
from stylegan2_msp.upstream.import_network import import_network
from stylegan2_msp.upstream.traced import PlainGenerator

SMALL: dict[str, Any] = {
    "z_dim": 8,
    "w_dim": 8,
    "img_resolution": 8,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 64, "channel_max": 8},
}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "msp, grey": ({"c_dim": 11, "img_channels": 1}, {"condition": "class+msp", "num_classes": 10}),
    "msp, colour, other architecture and embedding": (
        {
            "c_dim": 4,
            "img_channels": 3,
            "mapping_kwargs": {"num_layers": 2, "embedding": "film"},
            "synthesis_kwargs": {
                "channel_base": 64,
                "channel_max": 8,
                "architecture": "resnet",
                "num_fp16_res": 2,
                "half_dtype": "bfloat16",
                "conv_clamp": 256,
            },
        },
        {"condition": "class+msp", "num_classes": 3},
    ),
    "entropy": (
        {"c_dim": 4, "img_channels": 1},
        {"condition": "class+msp", "num_classes": 3, "uncertainty": "entropy"},
    ),
    "softmax": (
        {"c_dim": 6, "img_channels": 1, "mapping_kwargs": {"num_layers": 2, "u_dim": 3}},
        {"condition": "class+msp", "num_classes": 3, "uncertainty": "softmax"},
    ),
    "class": (
        {"c_dim": 3, "img_channels": 1, "mapping_kwargs": {"num_layers": 2, "embedding": "linear"}},
        {"condition": "class", "num_classes": 3},
    ),
    "none": ({"c_dim": 0, "img_channels": 1}, {"condition": "none", "num_classes": 0}),
}
INPUTS = {
    "msp, grey": ["z", "class", "msp"],
    "msp, colour, other architecture and embedding": ["z", "class", "msp"],
    "entropy": ["z", "class", "uncertainty"],
    "softmax": ["z", "class", "uncertainty"],
    "class": ["z", "class"],
    "none": ["z"],
}


@pytest.fixture
def snapshot(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A generator with weights everywhere, noise too; indirectly parametrised by a name of `SHAPES`."""
    kwargs, info = SHAPES[getattr(request, "param", "msp, grey")]
    return written(tmp_path, build_network("Generator", {**SMALL, **kwargs}), {"kind": "images", **info})


def written(folder: Path, G: torch.nn.Module, info: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in G.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    path = folder / "network-snapshot-000001.safetensors"
    save_snapshot(path, G, None, {"class_names": None, "kimg": 1.0, **info})
    return path


def asked(generator: ConditionalGenerator, n: int) -> tuple[list[torch.Tensor], torch.Tensor | None, torch.Tensor]:
    """Inputs as a user of the exported file gives them, the label that they mean, and noise."""
    rng = torch.Generator().manual_seed(n)
    z = torch.randn(n, generator.G.z_dim, generator=rng)
    noise = torch.randn(n, 16 + 2 * 64, generator=rng)
    if not generator.takes_class:
        return [z], None, noise
    classes = torch.arange(n) % generator.num_classes
    one_hot = torch.eye(generator.num_classes)[classes]
    if not generator.takes_u:
        return [z, classes], one_hot, noise
    size = generator.measure.size(generator.num_classes)
    u = torch.rand(n, size, generator=rng) if size > 1 else torch.rand(n, generator=rng)
    return [z, classes, u], torch.cat([one_hot, u.reshape(n, -1)], dim=1), noise


class Maps:
    """Noise maps in the order in which layers draw them, for 8 x 8 pixels."""

    def __init__(self, noise: torch.Tensor) -> None:
        sizes = [4, 8, 8]
        parts = noise.split([size**2 for size in sizes], dim=1)
        self.maps = [p.reshape(-1, 1, s, s) for p, s in zip(parts, sizes, strict=True)]

    def randn(self, n: int, *shape: int) -> torch.Tensor:
        return self.maps.pop(0)


def ours(generator: ConditionalGenerator, z: torch.Tensor, c: Any, noise: torch.Tensor, mode: str) -> torch.Tensor:
    more: dict[str, Any] = {"noise_mode": "random", "rng": Maps(noise)} if mode == "input" else {"noise_mode": mode}
    with torch.no_grad():
        return generator.G(z, c, force_fp32=True, **more)


def check(generator: ConditionalGenerator, run: Any, mode: str) -> None:
    for n in (1, 2, 5):
        given, c, noise = asked(generator, n)
        expected = ours(generator, given[0], c, noise, mode)
        found = run([*given, noise] if mode == "input" else given)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()))


@pytest.mark.slow
def test_torch_export_takes_noise(snapshot: Path, tmp_path: Path) -> None:
    plain = export_torch(snapshot, tmp_path / "x.pt2", "input")
    assert plain.inputs == ["z", "class", "msp", "noise"]
    program = torch.export.load(str(tmp_path / "x.pt2")).module()
    check(load_generator(snapshot, "cpu"), lambda given: program(*given), "input")


@pytest.mark.slow
@pytest.mark.parametrize(
    "snapshot", ["msp, colour, other architecture and embedding", "entropy", "class", "none"], indirect=True
)
def test_torch_export_of_every_condition(snapshot: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    plain = export_torch(snapshot, tmp_path / "x.pt2")
    assert plain.inputs == INPUTS[request.node.callspec.params["snapshot"]]
    program = torch.export.load(str(tmp_path / "x.pt2")).module()
    check(load_generator(snapshot, "cpu"), lambda given: program(*given), "const")


@pytest.mark.slow
def test_torch_export_runs_without_this_package(snapshot: Path, tmp_path: Path) -> None:
    """The program, here without noise, holds PyTorch's own operators only."""
    plain = export_torch(snapshot, tmp_path / "x.pt2", "none")
    assert plain.inputs == ["z", "class", "msp"]
    z, classes, u = load_inputs = asked(load_generator(snapshot, "cpu"), 2)[0]
    torch.save(load_inputs, tmp_path / "inputs.pt")
    script = (
        "import sys, torch; sys.modules['torch_utils_ext'] = sys.modules['stylegan2_msp'] = None\n"
        "program = torch.export.load('x.pt2').module()\n"
        "torch.save(program(*torch.load('inputs.pt', weights_only=True)), 'img.pt')"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, capture_output=True)
    img = torch.load(tmp_path / "img.pt", weights_only=True)
    expected = load_generator(snapshot, "cpu").G(
        z, torch.cat([torch.eye(10)[classes], u[:, None]], 1), noise_mode="none"
    )
    torch.testing.assert_close(img, expected, rtol=1e-4, atol=1e-4)


def onnx_session(path: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) if path.exists() else None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("snapshot", "noise"),
    [
        ("msp, grey", "input"),
        ("msp, colour, other architecture and embedding", "const"),
        ("softmax", "none"),
    ],
    indirect=["snapshot"],
)
def test_onnx(snapshot: Path, noise: str, tmp_path: Path) -> None:
    onnx_session(tmp_path / "nothing")
    plain = export_onnx(snapshot, tmp_path / "x.onnx", noise)
    session = onnx_session(tmp_path / "x.onnx")
    assert [i.name for i in session.get_inputs()] == plain.inputs
    assert {i.shape[0] for i in [*session.get_inputs(), *session.get_outputs()]} == {"batch"}
    assert sorted(p.name for p in tmp_path.iterdir() if "x.onnx" in p.name) == ["x.onnx"]  # no file of weights beside

    def run(given: list[torch.Tensor]) -> torch.Tensor:
        feed = {name: value.numpy() for name, value in zip(plain.inputs, given, strict=True)}
        return torch.from_numpy(session.run(["img"], feed)[0])

    check(load_generator(snapshot, "cpu"), run, noise)


@pytest.mark.slow
def test_onnx_of_any_name(points_snapshot: Path, tmp_path: Path) -> None:
    """onnxruntime takes names in UTF-8 only, and the file that it runs before it is kept has such a name."""
    onnx_session(tmp_path / "nothing")
    odd = tmp_path / os.fsdecode(b"p\xf6ints.onnx")
    try:
        odd.touch()
    except OSError:
        pytest.skip("a file system of UTF-8 names")
    export_onnx(points_snapshot, odd)
    assert odd.stat().st_size


@pytest.mark.slow
def test_onnx_of_points(points_snapshot: Path, tmp_path: Path) -> None:
    onnx_session(tmp_path / "nothing")
    export_onnx(points_snapshot, tmp_path / "x.onnx")
    z = np.random.RandomState(0).randn(4, 8).astype(np.float32)
    feed = {"z": z, "class": np.array([0, 1, 1, 0]), "msp": np.array([0.5, 0.7, 0.9, 1], dtype=np.float32)}
    (found,) = onnx_session(tmp_path / "x.onnx").run(["points"], feed)
    c = torch.cat([torch.eye(2)[feed["class"]], torch.from_numpy(feed["msp"])[:, None]], dim=1)
    expected = load_snapshot(points_snapshot).G(torch.from_numpy(z), c)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="--noise input"):
        export_onnx(points_snapshot, tmp_path / "y.onnx", "input")


@pytest.mark.slow
def test_a_wrong_program_is_not_left(snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of other weights than the snapshot's: refused, and what stood there stays."""
    dest = tmp_path / "x.pt2"
    dest.write_bytes(b"before")
    traced = export_traced._traced

    def other(plain: PlainGenerator) -> Any:
        twin = copy.deepcopy(plain)
        with torch.no_grad():
            twin.G.synthesis.b8.torgb.bias.add_(1e-2)
        return traced(twin)

    monkeypatch.setattr(export_traced, "_traced", other)
    with pytest.raises(UserError, match=r"x\.pt2: the written program is off by 1\.\de-0[23]|off by"):
        export_torch(snapshot, dest)
    assert dest.read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == [snapshot.name, "x.pt2"]


def test_missing_extra_is_named(snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_traced, "_EXTRA", ("no_such_package",))
    with pytest.raises(UserError, match=r"no_such_package; pip install onnx"):
        export_onnx(snapshot, tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "reference", "--noise", "none"], "--noise"),
        (["--to", "torchscript"], "torch-export"),
        ([], "--to"),
    ],
)
def test_wrong_usage(snapshot: Path, arguments: list[str], told: str) -> None:
    found = CliRunner().invoke(export, ["--network", str(snapshot), *arguments])
    assert (found.exit_code, told in found.output) == (2, True)


def test_reference_and_back(snapshot: Path) -> None:
    """The command writes beside the snapshot, with the family's keys, and import gives the same network."""
    found = CliRunner().invoke(export, ["--network", str(snapshot), "--to", "reference"])
    assert found.exit_code == 0, found.output
    assert "D in the pickle is untrained" in found.output
    path = snapshot.with_suffix(".pkl")
    content = pickle.loads(path.read_bytes())
    assert {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs"} <= content.keys()
    before, back = load_snapshot(snapshot), import_network(path)
    assert all(torch.equal(value, back.G.state_dict()[name]) for name, value in before.G.state_dict().items())
    assert (back.info, back.G.init_kwargs) == (before.info, before.G.init_kwargs)  # type: ignore[union-attr]


def test_no_source_and_no_foreign_names_travel(snapshot: Path, tmp_path: Path) -> None:
    import pickletools

    export_reference(snapshot, tmp_path / "x.pkl")
    strings = [arg for _, arg, _ in pickletools.genops((tmp_path / "x.pkl").read_bytes()) if isinstance(arg, str)]
    modules = {s for s in strings if s.startswith(("stylegan2_msp.", "torch", "numpy", "collections", "builtins"))}
    assert modules == {"stylegan2_msp.upstream.adapter"}


def test_reference_interface(snapshot: Path, tmp_path: Path) -> None:
    """What the checkout's programs do with a network: copies, calls by name, attributes, new instances."""
    export_reference(snapshot, tmp_path / "x.pkl")
    G = pickle.loads((tmp_path / "x.pkl").read_bytes())["G_ema"]
    twin = copy.deepcopy(G).eval().requires_grad_(False).to("cpu")
    z, c = torch.randn(2, 8, dtype=torch.float64), torch.rand(2, 11)
    expected = load_snapshot(snapshot).G(z, c, noise_mode="const", truncation_psi=0.7)
    torch.testing.assert_close(twin(z=z, c=c, truncation_psi=0.7, noise_mode="const"), expected)
    ws = twin.mapping(z, c, truncation_psi=0.7, truncation_cutoff=None)
    torch.testing.assert_close(twin.synthesis(ws, noise_mode="const", force_fp32=True), expected)
    assert (twin.z_dim, twin.c_dim, twin.w_dim, twin.num_ws) == (8, 11, 8, 4)
    assert (twin.img_resolution, twin.img_channels, twin.init_kwargs.z_dim) == (8, 1, 8)
    kwargs = copy.deepcopy(twin.init_kwargs)
    kwargs.synthesis_kwargs = {**kwargs.get("synthesis_kwargs", {}), "num_fp16_res": 4, "conv_clamp": 256}
    new = type(twin)(**kwargs)
    new.load_state_dict(twin.state_dict())
    torch.testing.assert_close(new.eval()(z, c, noise_mode="const", truncation_psi=0.7), expected)
    with pytest.raises(AttributeError):
        _ = kwargs.nothing
    twin.synthesis.b4.const.data.zero_()
    assert G.synthesis.b4.const.abs().sum() > 0


def test_reference_of_a_finished_run(digits_archive: Path, tmp_path: Path) -> None:
    """G and D come from the training state beside the snapshot, the data's arguments from its options."""
    given = {"data": str(digits_archive), "cfg": "tiny", "batch": 8, "kimg": 0.008, "tick": 0.008, "z_dim": 8}
    assert start({**given, "metrics": "none"}, tmp_path, None, Machine(device="cpu")) == 0
    (path,) = tmp_path.glob("*/network-snapshot-*.safetensors")
    notes = export_reference(path, tmp_path / "x.pkl")
    assert "training-state-000000.pt" in notes[0]
    content = pickle.loads((tmp_path / "x.pkl").read_bytes())
    state = torch.load(path.with_name("training-state-000000.pt"), weights_only=True)["state"]
    for name in ("G", "D", "G_ema"):
        assert all(torch.equal(v, state[name][k]) for k, v in content[name].state_dict().items()), name
    img, c = torch.randn(2, 1, 16, 16), torch.eye(11)[[3, 5]]
    told = torch.cat([c, torch.full((2, 1), 0.5)], dim=1)  # D is told the sharpness, of which a checkout knows nothing
    torch.testing.assert_close(content["D"](img, c), content["D"](img, told))
    assert content["training_set_kwargs"]["path"] == str(digits_archive.resolve())
    back = import_network(tmp_path / "x.pkl")
    classifier = load_snapshot(path).classifier
    assert classifier is not None
    assert back.classifier == classifier.to_bytes()


def test_points_have_no_place_in_the_family(points_snapshot: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2-D points"):
        export_reference(points_snapshot, tmp_path / "x.pkl")
    assert not list(tmp_path.iterdir())


CHECKOUT = """
import sys, copy
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
import dnnlib, legacy
from torch_utils import misc
for force in (False, True):
    with dnnlib.util.open_url(sys.argv[2]) as f:
        data = legacy.load_network_pkl(f, force_fp16=force)
    assert {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs"} <= set(data)
    G = copy.deepcopy(data["G_ema"]).eval().requires_grad_(False).to(torch.device("cpu"))
    misc.print_module_summary(G, [torch.empty([1, G.z_dim]), torch.empty([1, G.c_dim])])
    options = dnnlib.EasyDict(data["training_set_kwargs"])
    options.resolution, options.use_labels = G.img_resolution, G.c_dim != 0
    dataset = dnnlib.util.construct_class_by_name(**options)
    z = np.random.RandomState(7).randn(3, G.z_dim)
    c = torch.from_numpy(np.stack([dataset.get_label(i) for i in range(3)]))
    img = G(z=torch.from_numpy(z), c=c, truncation_psi=0.7, noise_mode="const")
    logits = data["D"](img, c)
new = copy.deepcopy(G)
misc.copy_params_and_buffers(data["G_ema"], new, require_all=True)
np.savez(sys.argv[3], z=z, c=c, img=img, logits=logits, channels=dataset.num_channels)
"""


@pytest.mark.slow
def test_a_real_checkout_loads_it(digits_archive: Path, tmp_path: Path) -> None:
    """Its own loader, module summary, dataset class and labels; D and G answer as ours."""
    checkout = os.environ.get("STYLEGAN2_ADA_PATH")
    if not checkout:
        pytest.skip("STYLEGAN2_ADA_PATH is not set to a checkout of stylegan2-ada-pytorch")
    torch.manual_seed(0)
    G = build_network("Generator", {**SMALL, "c_dim": 11, "img_channels": 1, "img_resolution": 16})
    info = {"kind": "images", "condition": "class+msp", "num_classes": 10, "config": {"data": str(digits_archive)}}
    path = written(tmp_path, G, info)
    export_reference(path, tmp_path / "x.pkl")
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", CHECKOUT, checkout, str(tmp_path / "x.pkl"), str(tmp_path / "out.npz")]
    done = subprocess.run(
        command, cwd=checkout, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "out.npz") as arrays:
        z, c, img = (torch.from_numpy(arrays[key]) for key in ("z", "c", "img"))
        assert int(arrays["channels"]) == 1
    assert torch.equal(c[:, :10].sum(dim=1), torch.ones(3))
    expected = load_snapshot(path).G(z, c, noise_mode="const", truncation_psi=0.7)
    torch.testing.assert_close(img, expected, rtol=1e-4, atol=1e-4)


def test_info_is_plain_json(snapshot: Path, tmp_path: Path) -> None:
    export_reference(snapshot, tmp_path / "x.pkl")
    content = pickle.loads((tmp_path / "x.pkl").read_bytes())
    assert json.loads(content["stylegan2_msp"]["info"])["num_classes"] == 10
