"""Bringing a classifier: every way in, every way to be wrong, each one line, before anything is written."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from stylegan2_msp.classifiers import ClassifierSpec, FrozenClassifier
from stylegan2_msp.classifiers.load import DataShape, Declared, load_classifier
from stylegan2_msp.classifiers.trial import check_classifier
from stylegan2_msp.errors import UserError

SHAPE = DataShape("images", 1, 8, 3)
MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, k=3, channels=1, size=8, after=None):
        super().__init__()
        self.linear = nn.Linear(channels * size * size, k)
        self.after = after or nn.Identity()
    def forward(self, x):
        return self.after(self.linear(x.flatten(1)))

class Times(nn.Module):
    def forward(self, x):
        return x * 100

class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)

class Mixing(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True) * 5

class Cut(nn.Module):
    def forward(self, x):
        return x.detach()

class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(32, -1)

def plain(): return Net()
def five(): return Net(5)
def single(): return Net(1)
def squeezed(): return Net(1, after=nn.Flatten(0))
def colour(): return Net(channels=3, size=16)
def probs(): return Net(after=nn.Softmax(1))
def percent(): return Net(after=nn.Sequential(nn.Softmax(1), Times()))
def noisy(): return Net(after=Noise())
def mixing(): return Net(after=Mixing())
def cut(): return Net(after=Cut())
def branch(): return Net(after=Branch())
def fixed(): return Net(after=Fixed())
def wrong(): return 3
def fails(): raise KeyError("no such thing")
def nan():
    net = Net()
    net.linear.bias.data[0] = float("nan")
    return net
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the user's own module, which is the current one."""
    (tmp_path / "my_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("my_nets", None)


def tried(argument: str, declared: Declared | None = None, shape: DataShape = SHAPE) -> FrozenClassifier:
    frozen = load_classifier(argument, shape, declared)
    check_classifier(frozen, torch.rand(8, shape.channels, shape.resolution, shape.resolution) * 2 - 1, argument)
    return frozen


def test_factory_with_weights_travels_without_its_code(module: Path) -> None:
    net = nn.Linear(64, 3)
    state = {f"linear.{name}": tensor for name, tensor in net.state_dict().items()}
    safetensors.torch.save_file(state, module / "w.safetensors")
    frozen = load_classifier("my_nets:plain", SHAPE, weights=module / "w.safetensors")
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(frozen(x), net((x.flatten(1) + 1) / 2))
    (module / "my_nets.py").unlink()
    del sys.modules["my_nets"]
    again = FrozenClassifier.from_bytes(frozen.to_bytes())
    assert torch.equal(again(x), frozen(x))
    assert again.to_bytes() == frozen.to_bytes()
    again.verify_frozen()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda frozen: pickle.loads(pickle.dumps(frozen))])
def test_a_program_can_be_copied_and_sent_to_other_processes(module: Path, copied: Any) -> None:
    frozen = load_classifier("my_nets:plain", SHAPE)
    x = torch.rand(2, 1, 8, 8) * 2 - 1
    again = copied(frozen)
    assert torch.equal(again(x), frozen(x))
    again.verify_frozen()


def test_the_same_factory_gives_the_same_file(module: Path) -> None:
    hashes = set()
    for _ in range(2):
        torch.manual_seed(0)
        hashes.add(load_classifier("my_nets:plain", SHAPE).sha256)
    assert len(hashes) == 1


@pytest.mark.usefixtures("default_float64")
def test_a_factory_is_exported_whatever_the_default_dtype(module: Path) -> None:
    assert tried("my_nets:plain").probs(torch.zeros(2, 1, 8, 8, dtype=torch.float32)).dtype == torch.float32


def test_declared_input_of_another_size_and_colour(module: Path) -> None:
    frozen = tried("my_nets:colour", Declared(size=16, channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)))
    assert frozen.spec.input_size == 16
    assert frozen(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("given", [0.5, [0.5], torch.tensor([0.5])])
def test_mean_and_std_may_be_single_numbers(module: Path, given: Any) -> None:
    torch.manual_seed(0)
    found = tried("my_nets:plain", Declared(mean=given, std=given, range=[0, 1]))
    torch.manual_seed(0)
    assert found.to_bytes() == tried("my_nets:plain", Declared(mean=(0.5,), std=(0.5,))).to_bytes()


def test_a_factory_that_returns_torchscript_is_one_line(module: Path) -> None:
    factory = "def scripted(): return torch.jit.trace(Net(), torch.zeros(2, 1, 8, 8))"
    (module / "my_nets.py").write_text(MODULE + factory)
    with pytest.raises(UserError, match="my_nets:scripted returned a TorchScript program; return the module"):
        load_classifier("my_nets:scripted", SHAPE)


def test_a_graph_of_one_batch_size_is_filled_up(module: Path) -> None:
    frozen = tried("my_nets:fixed")
    assert frozen(torch.zeros(40, 1, 8, 8)).shape == (40, 3)


def test_probabilities_when_declared(module: Path) -> None:
    frozen = tried("my_nets:probs", Declared(output="probs"))
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(frozen.probs(x), frozen.net((x + 1) / 2))


@pytest.mark.parametrize(
    ("argument", "declared", "message"),
    [
        ("my_nets:five", None, "has 5 classes, the data has 3"),
        (
            "my_nets:single",
            None,
            r"has one output, the data has 3 classes and wants \[N, 3\]; bring a",
        ),
        ("my_nets:colour", None, "cannot be exported for inputs of 1x8x8.*--input-size"),
        ("my_nets:probs", None, "--classifier-output probs"),
        ("my_nets:percent", None, "rows of at least 0 that all sum to 100.*or divide by 100 and give"),
        ("my_nets:plain", Declared(output="probs"), "do not sum to 1|NaN"),
        ("my_nets:noisy", None, "rand_like.*not one of those allowed"),
        ("my_nets:mixing", None, "depends on the others in the batch"),
        ("my_nets:cut", None, "no gradient"),
        ("my_nets:branch", None, "cannot be exported"),
        ("my_nets:nan", None, "NaN"),
        ("my_nets:wrong", None, r"returned a int, expected a torch\.nn\.Module"),
        ("my_nets:fails", None, "KeyError"),
        ("my_nets:absent", None, "AttributeError"),
        ("no_such_module:net", None, "ModuleNotFoundError"),
        ("no_such_file.pt2", None, "cannot be read"),
        ("neither", None, "no such file; give 'train'"),
        ("my_nets:plain", Declared(channels=3, mean=(0.0, 0.0)), "input_mean must be 1 or 3"),
        ("my_nets:plain", Declared(mean=(0.5, 0.5, 0.5)), "several numbers for grey images; add --input-channels 3"),
        ("my_nets:plain", Declared(std=(0.0,)), "input_std must be above 0"),
        ("my_nets:plain", Declared(range=(1.0, 0.0)), "input_range must rise"),
    ],
)
def test_each_mistake_is_one_line(
    module: Path, capfd: pytest.CaptureFixture[str], argument: str, declared: Declared | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        tried(argument, declared)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("argument", ["my_nets:single", "my_nets:squeezed"])
@pytest.mark.parametrize(("output", "hint"), [("logits", r"z \[N, 1\] return.*zeros_like"), ("probs", r"1 - p, p")])
def test_one_output_for_two_classes_becomes_two(module: Path, argument: str, output: str, hint: str) -> None:
    two = DataShape("images", 1, 8, 2)
    with pytest.raises(UserError, match=rf"has one output.* wants \[N, 2\]; of a sigmoid's .*{hint}"):
        check_classifier(load_classifier(argument, two, Declared(output=output)), torch.rand(4, 1, 8, 8), argument)


def test_colour_data_for_a_grey_classifier_is_refused(module: Path) -> None:
    with pytest.raises(UserError, match="1-channel images and the data has 3"):
        load_classifier("my_nets:plain", DataShape("images", 3, 8, 3), Declared(channels=1))


def test_weights_that_do_not_fit(module: Path) -> None:
    safetensors.torch.save_file({"linear.weight": torch.zeros(2, 2)}, module / "w.safetensors")
    (module / "bad.safetensors").write_bytes(b"nonsense")
    for file in ("w.safetensors", "bad.safetensors", "none.safetensors"):
        with pytest.raises(UserError, match=f"--classifier-weights: {file}") as error:
            load_classifier("my_nets:plain", SHAPE, weights=file)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--classifier-weights: goes with"):
        load_classifier("x.pt2", SHAPE, weights=module / "w.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_weights_of_a_wrapped_model(module: Path, prefix: str) -> None:
    """torch.compile and DataParallel rename every weight of the model that they wrap; it is the same model still."""
    weights = {"linear.weight": torch.randn(3, 64), "linear.bias": torch.randn(3)}
    safetensors.torch.save_file(weights, module / "plain.safetensors")
    safetensors.torch.save_file({prefix + name: w for name, w in weights.items()}, module / "wrapped.safetensors")
    x = torch.rand(4, 1, 8, 8)
    plain, wrapped = (
        load_classifier("my_nets:plain", SHAPE, weights=module / f"{name}.safetensors").raw_logits(x)
        for name in ("plain", "wrapped")
    )
    assert torch.equal(plain, wrapped)


def test_pt2_of_another_size_names_the_options(module: Path) -> None:
    program = torch.export.export(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)),
        (torch.zeros(2, 3, 16, 16),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    torch.export.save(program, module / "m.pt2")
    with pytest.raises(UserError, match=r"takes inputs of 3x16x16.*1x8x8; give --input-size"):
        load_classifier("m.pt2", SHAPE)
    assert tried("m.pt2", Declared(size=16, channels=3)).num_classes == 3
    (module / "cut.pt2").write_bytes((module / "m.pt2").read_bytes()[:500])
    (module / "empty.pt2").write_bytes(b"")
    for name, message in (("cut.pt2", "truncated"), ("empty.pt2", "is empty")):
        with pytest.raises(UserError, match=message):
            load_classifier(name, SHAPE)


def test_a_file_of_this_project_must_be_for_such_data(module: Path) -> None:
    frozen = load_classifier("my_nets:plain", SHAPE)
    (module / "c.safetensors").write_bytes(frozen.to_bytes())
    assert load_classifier("c.safetensors", SHAPE).sha256 == frozen.sha256
    with pytest.raises(UserError, match="1x8x8 images of 3 classes, the data has 3x8x8 images of 3 classes"):
        load_classifier("c.safetensors", DataShape("images", 3, 8, 3))


class Restless(nn.Module):
    """Draws random numbers, which no exported program may, and counts its calls."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.noise == 0
        return x.flatten(1)[:, :3] + torch.rand(len(x), 3) * self.noise


def test_random_answers_and_changing_buffers_are_found() -> None:
    spec = ClassifierSpec("program", "images", 3, 1, 8, 1, 8)
    x = torch.rand(4, 1, 8, 8)
    with pytest.raises(UserError, match="not deterministic in eval"):
        check_classifier(FrozenClassifier(spec, Restless(1.0)), x, "it")
    with pytest.raises(UserError, match="changes itself"):
        check_classifier(FrozenClassifier(spec, Restless(0.0)), x, "it")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript and its ONNX export, which people still have
def test_other_files_are_named_with_the_way_out_and_never_unpickled(module: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    torch.save(net, module / "whole.pth")
    torch.save(net.state_dict(), module / "state.pt")
    torch.save(Trap(module / "sprung"), module / "trap.pt", _use_new_zipfile_serialization=False)
    torch.jit.script(net).save(module / "script.pt")
    torch.onnx.export(net, (torch.zeros(2, 1, 8, 8),), module / "net.onnx", dynamo=False)
    safetensors.torch.save_file(net.state_dict(), module / "weights.safetensors")
    for name, kind in (
        ("whole.pth", "pickle of torch.save"),
        ("state.pt", "pickle of torch.save"),
        ("trap.pt", "pickle"),
        ("script.pt", "TorchScript"),
        ("net.onnx", "ONNX"),
        ("weights.safetensors", r"state dict \(safetensors\) without its network"),
    ):
        ways = r".*--classifier-weights .*safetensors.* torch\.export\.save\(torch\.export\.export\(model\.eval"
        with pytest.raises(UserError, match=f"^{name}: is an? {kind}{ways}") as error:
            load_classifier(name, SHAPE, Declared(mean=(0.5,)))
        assert "\n" not in str(error.value)
    for name in ("whole.pth", "state.pt", "trap.pt", "script.pt"):
        with pytest.raises(UserError, match=rf"{name} is a .*; write it with safetensors\.torch\.save_file\("):
            load_classifier("my_nets:plain", SHAPE, weights=name)
    assert not (module / "sprung").exists()


def test_a_snapshot_is_not_called_a_state_dict(module: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1)}, module / "s.safetensors", {"format": "stylegan2-msp snapshot"})
    with pytest.raises(UserError, match="not a classifier's file of this project"):
        load_classifier("s.safetensors", SHAPE)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)
