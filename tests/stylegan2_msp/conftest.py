"""Small untrained generators in snapshots, as training would leave them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from stylegan2_msp.classifiers import ClassifierSpec, FrozenClassifier
from stylegan2_msp.classifiers.builtin import SmallCNN, SmallMLP

if TYPE_CHECKING:
    from stylegan2_msp.generation import ConditionalGenerator

SMALL: dict[str, Any] = {
    "z_dim": 16,
    "w_dim": 16,
    "img_resolution": 16,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 128, "channel_max": 8},
}


def image_generator(c_dim: int, channels: int) -> torch.nn.Module:
    """A tiny 16x16 generator with random weights."""
    from stylegan2_msp.networks import build_network

    torch.manual_seed(0)
    return build_network("Generator", {**SMALL, "c_dim": c_dim, "img_channels": channels}).eval()


def image_classifier(num_classes: int, channels: int) -> FrozenClassifier:
    """A classifier of 16x16 images with random weights."""
    torch.manual_seed(0)
    net = SmallCNN(16, channels, num_classes, width=4, hidden=16)
    with torch.no_grad():
        net.head[-1].weight.mul_(30)
    args = {"width": 4, "hidden": 16}
    return FrozenClassifier(
        ClassifierSpec("cnn", "images", num_classes, channels, 16, channels, 16, arch_args=args), net
    )


def _info(num_classes: int, **more: Any) -> dict[str, Any]:
    return {
        "kind": "images",
        "num_classes": num_classes,
        "class_names": None,
        "condition": "class+msp",
        "kimg": 1.5,
        **more,
    }


@pytest.fixture(scope="session")
def grey_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes, grey."""
    from stylegan2_msp.snapshot import save_snapshot

    path = tmp_path_factory.mktemp("training-runs") / "00000-grey" / "network-snapshot-000001.safetensors"
    path.parent.mkdir()
    save_snapshot(path, image_generator(11, 1), image_classifier(10, 1).to_bytes(), _info(10))
    return path


@pytest.fixture(scope="session")
def rgb_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes with names, RGB."""
    from stylegan2_msp.snapshot import save_snapshot

    path = tmp_path_factory.mktemp("rgb") / "network-snapshot-000002.safetensors"
    info = _info(3, class_names=["cat", "dog", "automobile"])
    save_snapshot(path, image_generator(4, 3), image_classifier(3, 3).to_bytes(), info)
    return path


@pytest.fixture(scope="session")
def points_snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 2-D points."""
    from stylegan2_msp.networks import build_network
    from stylegan2_msp.snapshot import save_snapshot

    torch.manual_seed(0)
    args = {"hidden": 8, "num_hidden": 1}
    spec = ClassifierSpec("mlp", "points", 2, 0, 0, 2, 0, arch_args=args)
    classifier = FrozenClassifier(spec, SmallMLP(2, 2, hidden=8, num_hidden=1))
    path = tmp_path_factory.mktemp("points") / "network-snapshot-000003.safetensors"
    G = build_network("PointGenerator", {"z_dim": 8, "c_dim": 3})
    save_snapshot(path, G, classifier.to_bytes(), _info(2, kind="points", class_names=["upper", "lower"]))
    return path


@pytest.fixture(scope="session")
def grey(grey_snapshot: Path) -> ConditionalGenerator:
    """The grey generator, loaded."""
    from stylegan2_msp.generation import load_generator

    return load_generator(grey_snapshot, "cpu")


@pytest.fixture(scope="session")
def noisy() -> ConditionalGenerator:
    """A generator whose noise inputs have weight."""
    from stylegan2_msp.generation import ConditionalGenerator
    from stylegan2_msp.snapshot import Snapshot

    G = image_generator(11, 1)
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.5)
    return ConditionalGenerator(Snapshot(G, None, _info(10), Path("noisy.safetensors")))


@pytest.fixture(scope="session")
def class_only() -> ConditionalGenerator:
    """A generator conditioned on the class alone, without a classifier."""
    from stylegan2_msp.generation import ConditionalGenerator
    from stylegan2_msp.snapshot import Snapshot

    info = _info(10, condition="class")
    return ConditionalGenerator(Snapshot(image_generator(10, 1), None, info, Path("class.safetensors")))


@pytest.fixture
def generate_cli(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls `generate` in an empty folder: generate_cli('--msp', '0.7') -> (exit code, standard output, its errors)."""
    from stylegan2_msp.cli import run
    from stylegan2_msp.cli.generate import generate

    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["generate", *map(str, args)])
        code = 0
        try:
            run(generate)
        except SystemExit as error:
            code = int(error.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call
