"""Networks of the family, from pickles with its structure: the same images, and nothing of their source is run."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.generation import load_generator
from stylegan2_msp.networks import Discriminator, Generator
from stylegan2_msp.snapshot import load_discriminator, load_snapshot, save_snapshot
from stylegan2_msp.upstream import import_network as reading
from stylegan2_msp.upstream.adapter import adapted
from stylegan2_msp.upstream.export_reference import export_reference
from stylegan2_msp.upstream.import_network import import_network, rebuilt
from stylegan2_msp.upstream.loading import DATASET
from stylegan2_msp.upstream.pickle_machine import Refused
from stylegan2_msp.upstream.unpickle import ModuleRecord, load_plain

GOLDEN = Path(__file__).parents[2] / "golden"
BUFFERS = ("resample_filter", "noise_const", "w_avg")
CLAMP = {"rgb64": 256}  # of the golden networks
LR = {"G": 0.01, "D": 0.01}


def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"networks_{name}.npz") as arrays:
        return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}


class Record:
    """Pickles as an object of one of the family's persistent classes does."""

    def __init__(self, class_name: str, state: dict[str, Any], source: str) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,), None


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Modules with the names that the family's pickles refer to, for as long as a test writes."""

    def reconstruct(meta: Any) -> None:
        raise AssertionError("a persistent object was reconstructed")

    class EasyDict(dict[str, Any]):
        pass

    reconstruct.__module__, reconstruct.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    persistence._reconstruct_persistent_obj, util.EasyDict = reconstruct, EasyDict  # type: ignore[attr-defined]
    for module in (types.ModuleType("torch_utils"), types.ModuleType("dnnlib"), persistence, util):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return util


def record_of(
    network: str, tensors: dict[str, torch.Tensor], util: Any, source: str, clamp: float | None, newer: bool
) -> Record:
    """The record of 'G' or 'D' with these tensors, module by module, with the attributes that the family keeps."""

    def module(prefix: str, class_name: str, **attributes: Any) -> Record:
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        here = {k: v for k, v in own.items() if "." not in k}
        children = OrderedDict((k.split(".")[0], None) for k in own if "." in k)
        if prefix == "b4.":
            children["mbstd"] = None
        state = {
            "training": False,
            "_parameters": OrderedDict(
                (k, torch.nn.Parameter(v, v.is_floating_point())) for k, v in here.items() if k not in BUFFERS
            ),
            "_buffers": OrderedDict((k, v) for k, v in here.items() if k in BUFFERS),
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": OrderedDict(),
            "_modules": OrderedDict((name, child(prefix, name)) for name in children),
            "_init_args": (),
            "_init_kwargs": util.EasyDict(any=util.EasyDict()),
            **attributes,
        }
        return Record(class_name, util.EasyDict(state), source)

    def learned(value: torch.Tensor) -> torch.nn.Parameter:
        return torch.nn.Parameter(value, value.is_floating_point())

    def child(prefix: str, name: str) -> Record:
        full = f"{prefix}{name}."
        if re.fullmatch(r"b\d+", name):
            more = {"fused_modconv_default": "inference_only"} if newer else {}
            return module(full, "Block", use_fp16=False, channels_last=False, **more)
        if name in ("embed", "fc", "out", "affine") or re.fullmatch(r"fc\d+", name):
            deep = re.fullmatch(r"fc\d+", name) is not None
            gain = np.float64(LR[network] if deep else 1) / np.sqrt(3)
            kind = "lrelu" if deep or name == "fc" else "linear"
            return module(full, "FC", activation=kind, weight_gain=gain, bias_gain=LR[network] if deep else 1)
        if name == "mapping":
            return module(full, "MappingNetwork", w_avg_beta=0.998 if newer else 0.995, num_layers=99)
        if name == "mbstd":
            return module(full, "MinibatchStdLayer", group_size=4, num_channels=1)
        if name == "synthesis":
            return module(full, "SynthesisNetwork")
        return module(full, "Layer", activation="lrelu", conv_clamp=clamp, act_gain=np.sqrt(2))

    return module("", {"G": "Generator", "D": "Discriminator"}[network])


def family_pickle(
    path: Path, name: str, util: Any, protocol: int = 4, newer: bool = False, canary: Path | None = None
) -> dict[str, torch.Tensor]:
    """Writes the golden networks `name` as the family would; gives the golden arrays."""
    arrays = golden(name)
    source = f"open({str(canary)!r}, 'w')" if canary else "raise SystemExit('run')"
    made = {
        network: record_of(
            network,
            {k[2:]: v for k, v in arrays.items() if k.startswith(f"{network}.")},
            util,
            source,
            CLAMP.get(name),
            newer,
        )
        for network in ("G", "D")
    }
    content = {**made, "G_ema": made["G"], "augment_pipe": None, "training_set_kwargs": util.EasyDict(path="x.zip")}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return arrays


@pytest.mark.parametrize(
    ("name", "protocol", "newer"),
    [("mono32", 2, False), ("rgb64", 3, True), ("rgb64", 4, False), ("rgb16_orig", 5, True), ("rgb16_orig", 4, False)],
)
def test_images_and_logits_of_the_family(name: str, protocol: int, newer: bool, family: Any, tmp_path: Path) -> None:
    """Both layouts, every architecture, against what the reference itself computed."""
    canary, path = tmp_path / "canary", tmp_path / "network-snapshot-000200.pkl"
    arrays = family_pickle(path, name, family, protocol, newer, canary)
    found = import_network(path)
    assert not canary.exists()
    z, c = arrays["z"], arrays["c"]
    with torch.no_grad():
        for psi, expected in ((1, arrays["img_const"]), (0.7, arrays["img_const_psi07"])):
            img = found.G(z, c, truncation_psi=psi, noise_mode="const")
            assert (img - expected).abs().max() <= 1e-4 * expected.abs().max()
        logits = found.D(arrays["real"], c)
    assert (logits - arrays["real_logits"]).abs().max() <= 1e-4 * arrays["real_logits"].abs().max()
    assert found.info["kimg"] == 200
    assert found.info["condition"] == ("class" if c.shape[1] else "none")
    assert found.G.init_kwargs["mapping_kwargs"]["w_avg_beta"] == (0.998 if newer else 0.995)


def run_import(path: Path, dest: Path, *more: str) -> None:
    from stylegan2_msp.cli.import_network import import_network as command

    command([str(path), "--dest", str(dest), *more], standalone_mode=False)


def test_command_writes_a_snapshot(family: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, dest = tmp_path / "net.pkl", tmp_path / "net.safetensors"
    arrays = family_pickle(path, "mono32", family)
    run_import(path, dest)
    assert "32 x 32 pixels, 11 classes, condition class" in capsys.readouterr().out
    snapshot, D = load_snapshot(dest), load_discriminator(dest)
    with torch.no_grad():
        img = snapshot.G(arrays["z"], arrays["c"], noise_mode="const")
        logits = D(arrays["real"], arrays["c"])  # type: ignore[misc]
    torch.testing.assert_close(img, arrays["img_const"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, arrays["real_logits"], rtol=1e-4, atol=1e-4)
    assert load_generator(dest, "cpu").sample(classes=3, seeds=[1, 2]).shape == (2, 1, 32, 32)


def test_where_it_cannot_be_written(family: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    family_pickle(path, "mono32", family)
    run_import(path, tmp_path / "new" / "net.safetensors")
    assert load_snapshot(tmp_path / "new" / "net.safetensors").info["num_classes"] == 11
    found = import_network(path)
    with pytest.raises(UserError, match="cannot be written"):
        save_snapshot(tmp_path / "missing" / "net.safetensors", found.G, None, found.info)
    with pytest.raises(UserError, match="cannot be made"):
        run_import(path, path / "net.safetensors")
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        run_import(path, tmp_path / "net.pt")


def test_label_with_an_uncertainty(family: Any, tmp_path: Path) -> None:
    """People trained on [one-hot, MSP] with the family's own networks: eleven numbers are ten classes and an MSP."""
    path, dest = tmp_path / "net.pkl", tmp_path / "net.safetensors"
    arrays = family_pickle(path, "mono32", family)
    run_import(path, dest, "--uncertainty", "msp")
    generator = load_generator(dest, "cpu")
    assert (generator.num_classes, generator.takes_u) == (10, True)
    c = torch.cat([torch.eye(10)[[4]], torch.tensor([[0.3]])], dim=1)
    img = load_snapshot(dest).G(arrays["z"][:1], c, noise_mode="const")
    assert torch.isfinite(img).all()
    torch.testing.assert_close(
        generator.sample(classes=4, msp=0.3, seeds=0), generator.sample(classes=4, uncertainty=0.3, seeds=0)
    )
    with pytest.raises(UserError, match="--uncertainty softmax"):
        import_network(path, "softmax")


def test_an_address_is_no_file(tmp_path: Path) -> None:
    for read in (import_network, load_generator):
        with pytest.raises(UserError, match="an address in the web; download it"):
            read(Path("https://example.org/net.pkl"))


def test_truncation_of_a_label_with_an_uncertainty(family: Any, tmp_path: Path) -> None:
    """As in a patched checkout, towards the mean of the label; of classes alone towards w_avg, as the family's."""
    arrays = family_pickle(tmp_path / "net.pkl", "mono32", family)
    z = arrays["z"][:1].expand(2, -1)
    c = torch.cat([torch.eye(10)[[4, 5]], torch.tensor([[0.3], [0.9]])], dim=1)
    plain = import_network(tmp_path / "net.pkl").G.mapping
    torch.testing.assert_close(plain(z, c, truncation_psi=0)[:, 0], plain.w_avg.expand(2, -1))
    mapping = import_network(tmp_path / "net.pkl", "msp").G.mapping
    means = [mapping(mapping.centre.z(), row.expand(1024, -1))[:, 0].mean(dim=0) for row in c]
    torch.testing.assert_close(mapping(z, c, truncation_psi=0)[:, 0], torch.stack(means))


def test_what_our_own_pickle_says_of_its_label_holds(grey_snapshot: Path, tmp_path: Path) -> None:
    export_reference(grey_snapshot, tmp_path / "own.pkl")
    assert import_network(tmp_path / "own.pkl", "msp").info == import_network(tmp_path / "own.pkl").info
    with pytest.raises(UserError, match=r"--uncertainty entropy: .* says that its label holds msp; leave it out"):
        import_network(tmp_path / "own.pkl", "entropy")
    plain = load_snapshot(grey_snapshot)
    info = {**plain.info, "condition": "class", "uncertainty": "msp"}  # trained with --cond=1 on annotated data
    save_snapshot(tmp_path / "class.safetensors", plain.G, None, info)
    export_reference(tmp_path / "class.safetensors", tmp_path / "class.pkl")
    with pytest.raises(UserError, match="its label holds no uncertainty; leave it out"):
        import_network(tmp_path / "class.pkl", "msp")


def test_pickle_with_the_generator_alone(family: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    arrays = golden("mono32")
    tensors = {k[2:]: v for k, v in arrays.items() if k.startswith("G.")}
    path.write_bytes(pickle.dumps({"G_ema": record_of("G", tensors, family, "", None, False)}))
    found = import_network(path)
    assert found.D is None
    save_snapshot(tmp_path / "net.safetensors", found.G, None, found.info)
    assert load_discriminator(tmp_path / "net.safetensors") is None


def test_network_that_a_patched_checkout_trained(family: Any, tmp_path: Path) -> None:
    """Its pickle holds our networks and, in the arguments of the data set, what the label is."""
    torch.manual_seed(0)
    kwargs = {"z_dim": 8, "c_dim": 11, "w_dim": 8, "img_resolution": 16, "img_channels": 1}
    G = Generator(**kwargs, synthesis_kwargs={"channel_base": 64, "channel_max": 8})
    D = Discriminator(11, 16, 1, channel_base=64, channel_max=8)
    data = family.EasyDict(class_name=DATASET, path="x.zip", uncertainty="entropy")
    content = {"G": adapted(G), "D": adapted(D), "G_ema": adapted(G), "training_set_kwargs": data}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    found = import_network(tmp_path / "x.pkl")
    assert (found.info["num_classes"], found.info["condition"], found.info["uncertainty"]) == (
        10,
        "class+msp",
        "entropy",
    )
    assert all(torch.equal(v, found.G.state_dict()[k]) for k, v in G.state_dict().items())
    assert all(torch.equal(v, found.D.state_dict()[k]) for k, v in D.state_dict().items())  # type: ignore[union-attr]


def test_classifier_of_the_data_travels_along(digits_archive: Path, family: Any, tmp_path: Path) -> None:
    """The pickles of the family have no place for it; --data takes it from the archive, which must fit."""
    archive = open_archive(digits_archive)
    K, size = archive.num_classes, archive.img_resolution
    torch.manual_seed(0)
    for pixels in (size, 2 * size):
        kwargs = {"z_dim": 8, "c_dim": K + 1, "w_dim": 8, "img_resolution": pixels, "img_channels": 1}
        G = Generator(**kwargs, synthesis_kwargs={"channel_base": 64, "channel_max": 8})
        data = family.EasyDict(class_name=DATASET, path="x.zip", uncertainty="msp")
        content = {"G_ema": adapted(G), "training_set_kwargs": data}
        (tmp_path / f"{pixels}.pkl").write_bytes(pickle.dumps(content))
    dest = tmp_path / "net.safetensors"
    run_import(tmp_path / f"{size}.pkl", dest, "--data", str(digits_archive))
    assert archive.classifier_bytes is not None
    theirs = FrozenClassifier.from_bytes(archive.classifier_bytes, "the archive's")
    generator = load_generator(dest, "cpu")
    items = generator.sample(classes=3, msp=0.7, seeds=[0, 1])
    said = generator.answers(items, generator.requests(3, 0.7, [0, 1]))
    assert [answer.u for answer in said if answer] == theirs.answer(items)[1].tolist()
    with pytest.raises(UserError, match=r"--data .*: classes, channels, size and measure are \(10, 1, 16, 'msp'\)"):
        run_import(tmp_path / f"{2 * size}.pkl", dest, "--data", str(digits_archive))
    (tmp_path / "untold.pkl").write_bytes(pickle.dumps({"G_ema": adapted(G)}))
    with pytest.raises(UserError, match=r"--data .*: its labels, .*; add --uncertainty msp"):
        run_import(tmp_path / "untold.pkl", dest, "--data", str(digits_archive))


def broken(kind: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    changed = dict(tensors)
    if kind == "missing":
        del changed["synthesis.b8.conv1.bias"]
    elif kind == "further":
        changed["synthesis.input.freqs"] = torch.zeros(3)
    elif kind == "shape":
        changed["synthesis.b8.conv1.bias"] = torch.zeros(5)
    elif kind == "type":
        changed["synthesis.b8.conv1.bias"] = torch.zeros(16, dtype=torch.int64)
    elif kind == "channels":
        changed["synthesis.b8.conv1.weight"] = torch.zeros(7, 16, 3, 3)
    elif kind == "other":
        changed = {"mapping.fc0.weight": torch.zeros(3, 3)}
    return changed


@pytest.mark.parametrize("kind", ["missing", "further", "shape", "type", "channels", "other"])
def test_other_networks_are_refused(kind: str, family: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    tensors = {k[2:]: v for k, v in golden("mono32").items() if k.startswith("G.")}
    record = record_of("G", broken(kind, tensors), family, "", None, False)
    path.write_bytes(pickle.dumps({"G_ema": record}))
    with pytest.raises(UserError, match=r"net\.pkl: it.*nothing of it was run") as caught:
        import_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"synthesis_kwargs": {"channel_base": 1}},
        {"synthesis_kwargs": {"channel_max": 0}},
        {"img_resolution": 2**40},
        {"mapping_kwargs": {"truncation_samples": 10**12}},
    ],
    ids=str,
)
def test_arguments_that_make_no_network_are_refused(change: dict[str, Any]) -> None:
    sizes = {"z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "img_channels": 1}
    with pytest.raises(Refused, match="its Generator cannot be built here"):
        rebuilt("Generator", {**sizes, **change}, {})


@pytest.mark.parametrize("content", [{}, {"G_ema": 3}, {"G_ema": {"a": 1}}, [1], {"G_ema": None}])
def test_other_contents_are_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"G_ema|something else"):
        import_network(tmp_path / "x.pkl")


WEIRD = [None, True, -1, 0, 1.5, float("nan"), 10**30, "", "x", b"x", [], {}, {"a": 1}, (1,), torch.zeros(3, 0), ...]


def records_of(record: ModuleRecord) -> list[ModuleRecord]:
    inner = [child for child in record.state["_modules"].values() if child is not None]
    return [record, *(deeper for child in inner for deeper in records_of(child))]


@pytest.mark.parametrize("seed", range(4))
def test_strange_attributes(seed: int, family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in one attribute or table: a network that generates, or one line."""
    path = tmp_path / "net.pkl"
    arrays = family_pickle(path, "rgb16_orig", family)
    data, rng = path.read_bytes(), np.random.RandomState(seed)
    refused = 0
    for _ in range(40):
        content = load_plain(memoryview(data))
        records = records_of(content["G_ema"]) + records_of(content["D"])
        state = records[rng.randint(len(records))].state
        names = [n for n in state if n[0] != "_" or n in ("_parameters", "_buffers", "_modules")]
        state[names[rng.randint(len(names))]] = WEIRD[rng.randint(len(WEIRD))]
        monkeypatch.setattr(reading, "read_pickle", lambda _, content=content: content)
        try:
            found = import_network(path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
            continue
        with torch.no_grad():
            found.D(found.G(arrays["z"], None, noise_mode="const"), None)  # type: ignore[misc]
    assert refused > 5


def test_modules_without_end(family: Any, tmp_path: Path) -> None:
    """A module whose children are all one module, forty times over, has 2^40 of them."""
    inner: Any = Record("Layer", {"_parameters": {}, "_buffers": {}, "_modules": {}}, "")
    for _ in range(40):
        inner = Record("Layer", {"_parameters": {}, "_buffers": {}, "_modules": {"a": inner, "b": inner}}, "")
    inner.meta["class_name"] = "Generator"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"G_ema": inner}))
    with pytest.raises(UserError, match="more than 5000 modules"):
        import_network(tmp_path / "x.pkl")


REFERENCE = """
import importlib.util, sys, json, pickle, types
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
stand_in = sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")  # gone from Python's tools
stand_in.parse_version = torch.torch_version.TorchVersion
import dnnlib
newer = importlib.util.find_spec("training.networks_stylegan2") is not None
networks = importlib.import_module("training.networks_stylegan2" if newer else "training.networks")
out, case = sys.argv[2], json.loads(sys.argv[3])
torch.manual_seed(case["seed"])
easy = lambda d: dnnlib.EasyDict({k: easy(v) if isinstance(v, dict) else v for k, v in d.items()})
if newer:
    case["G"] |= case["G"].pop("synthesis_kwargs")
G = networks.Generator(**easy(case["G"])).eval().requires_grad_(False)
D = networks.Discriminator(**easy(case["D"])).eval().requires_grad_(False)
with torch.no_grad():
    for t in [*G.parameters(), *D.parameters(), G.mapping.w_avg]:
        t.add_(0.1 * torch.randn_like(t))
    z, c = torch.randn(4, G.z_dim), torch.eye(max(G.c_dim, 1))[torch.arange(4) % max(G.c_dim, 1)][:, :G.c_dim]
    img = G(z, c, noise_mode="const", force_fp32=True)
    half = G(z, c, truncation_psi=0.5, truncation_cutoff=3, noise_mode="none", force_fp32=True)
    logits = D(img, c, force_fp32=True)
with open(out + ".pkl", "wb") as f:
    pickle.dump(dict(G=G, D=D, G_ema=G, augment_pipe=None, training_set_kwargs=dnnlib.EasyDict(path="x")), f)
np.savez(out + ".npz", z=z, c=c, img=img, half=half, logits=logits)
"""
SIZE = {"img_resolution": 32, "img_channels": 3}
CASES: dict[str, dict[str, Any]] = {
    "as paper256, half precision": {
        "G": {
            "z_dim": 24, "c_dim": 5, "w_dim": 20,
            "mapping_kwargs": {"num_layers": 8},
            "synthesis_kwargs": {"channel_base": 512, "channel_max": 32, "num_fp16_res": 3, "conv_clamp": 256},
        },
        "D": {
            "c_dim": 5, "channel_base": 512, "channel_max": 32, "num_fp16_res": 3, "conv_clamp": 256,
            "block_kwargs": {"freeze_layers": 2}, "epilogue_kwargs": {"mbstd_group_size": 2},
        },
    },
    "unconditional, everything else changed": {
        "G": {
            "z_dim": 16, "c_dim": 0, "w_dim": 24,
            "mapping_kwargs": {"num_layers": 3, "layer_features": 18, "activation": "relu", "lr_multiplier": 0.1},
            "synthesis_kwargs": {
                "channel_base": 256, "channel_max": 16, "architecture": "resnet", "use_noise": False,
                "resample_filter": [1, 2, 1], "activation": "swish",
            },
        },
        "D": {
            "c_dim": 0, "channel_base": 256, "channel_max": 16, "architecture": "skip",
            "epilogue_kwargs": {"mbstd_group_size": None},
        },
    },
    "label, no mapping layers in D": {
        "G": {
            "z_dim": 16, "c_dim": 3, "w_dim": 16,
            "mapping_kwargs": {"num_layers": 2, "embed_features": 10},
            "synthesis_kwargs": {"channel_base": 256, "channel_max": 16, "architecture": "orig"},
        },
        "D": {
            "c_dim": 3, "channel_base": 256, "channel_max": 16, "architecture": "orig",
            "mapping_kwargs": {"num_layers": 0}, "epilogue_kwargs": {"mbstd_num_channels": 0},
        },
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["STYLEGAN2_ADA_PATH", "STYLEGAN3_PATH"])
@pytest.mark.parametrize("name", CASES)
def test_networks_of_a_real_checkout(name: str, variable: str, tmp_path: Path) -> None:
    checkout = os.environ.get(variable)
    if not checkout:
        pytest.skip(f"{variable} is not set to a checkout of stylegan2-ada-pytorch, or of stylegan3")
    case = {key: {**value, **SIZE} for key, value in CASES[name].items()} | {"seed": 1}
    out = tmp_path / "net"
    command = [sys.executable, "-c", REFERENCE, checkout, str(out), json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(f"{out}.npz") as arrays:
        z, c, img, half, logits = (torch.from_numpy(arrays[key]) for key in ("z", "c", "img", "half", "logits"))
    found = import_network(f"{out}.pkl")
    with torch.no_grad():
        mine = found.G(z, c, noise_mode="const")
        cut = found.G(z, c, truncation_psi=0.5, truncation_cutoff=3, noise_mode="none")
        told = found.D(img, c)
    for made, expected in ((mine, img), (cut, half), (told, logits)):
        assert (made - expected).abs().max() <= 1e-4 * expected.abs().max().clamp(min=1)
