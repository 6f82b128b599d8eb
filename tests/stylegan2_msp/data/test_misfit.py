"""What is said of a classifier that does not fit the labels, and that nothing is said of one that does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from stylegan2_msp.classifiers.load import Declared
from stylegan2_msp.data.annotate import annotate_archive
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.data.misfit import misfit
from stylegan2_msp.data.samples import Samples, default_names

NAMES = ["cat", "cow", "dog", "hen"]
ORDER = "cat, cow, dog, hen"


def answers(accuracy: float, count: int = 400, k: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels: right this often, else any class."""
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % k
    return np.where(rng.random(count) < accuracy, classes, rng.integers(0, k, count)), classes


@pytest.mark.parametrize("accuracy", [0.2, 0.5, 1.0])
def test_nothing_is_said_of_a_classifier_that_fits(accuracy: float) -> None:
    predicted, classes = answers(accuracy)
    assert misfit(predicted, classes, NAMES) is None


def test_chance_is_told_by_the_count_of_the_answers() -> None:
    for seed in range(20):
        line = misfit(*answers(0.0, seed=seed), NAMES)
        assert line is not None
        assert "is about chance" in line
    common = np.array([0] * 95 + [1] * 5)
    always = misfit(np.zeros(100, int), common, ["many", "few"])
    assert always is not None
    assert "accuracy 95.0 % is about chance (95.0 %)" in always
    knows_the_rare = np.array([0] * 85 + [1] * 15)  # right on all of the rare and less often than 'many' would be
    assert misfit(knows_the_rare, common, ["many", "few"]) is None


def test_another_order_is_recognised_and_both_orders_are_shown() -> None:
    predicted, classes = answers(0.9)
    line = misfit((predicted + 1) % 4, classes, NAMES)
    assert line is not None
    assert "another order than the classes, hen, cat, cow, dog: accuracy would be 9" in line
    assert line.endswith(f"the archive's order, {ORDER}")
    swapped = np.array([1, 0, 2, 3])[predicted]
    assert "another order than the classes, cow, cat, dog, hen" in str(misfit(swapped, classes, NAMES))


@pytest.mark.parametrize(("count", "k"), [(10, 4), (60, 12), (500, 100), (50, 100), (3000, 1500)])
def test_no_order_is_read_into_noise(count: int, k: int) -> None:
    for seed in range(20 if k < 1000 else 1):
        predicted, classes = answers(0.0, count, k, seed)
        assert "another order" not in str(misfit(predicted, classes, [str(i) for i in range(k)]))


def test_many_names_are_cut() -> None:
    predicted, classes = answers(1.0, 200, 20)
    line = misfit((predicted + 1) % 20, classes, [f"c{i}" for i in range(20)])
    assert line is not None
    assert line.endswith("c10, c11, ...")


def test_labels_of_one_class_tell_nothing() -> None:
    assert misfit(np.arange(40) % 4, np.zeros(40, int), NAMES) is None


@pytest.fixture
def bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images whose band k of rows is bright, in class k; a module whose `net` recognises them."""
    rng = np.random.default_rng(0)
    classes = np.arange(80) % 4
    data = rng.integers(0, 60, (80, 1, 8, 8), dtype=np.uint8)
    for image, k in zip(data, classes, strict=True):
        image[0, 2 * k : 2 * k + 2] += 150
    (tmp_path / "bands_net.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
    )
    monkeypatch.chdir(tmp_path)
    return write_archive(tmp_path / "x.zip", Samples(data, default_names("images", 80), classes, NAMES), progress=False)


def save(name: str, order: list[int]) -> str:
    weight = torch.zeros(4, 8, 8)
    for k in range(4):
        weight[k, 2 * k : 2 * k + 2] = 0.1  # so that it is not as sure of all
    state = {"1.weight": weight.reshape(4, 64)[order].contiguous(), "1.bias": torch.zeros(4)}
    safetensors.torch.save_file(state, name)
    return name


def test_annotate_warns_on_standard_error_and_writes(bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits, turned = save("w.safetensors", [0, 1, 2, 3]), save("t.safetensors", [1, 2, 3, 0])
    annotate_archive(bands, "y.zip", "bands_net:net", device="cpu", weights=fits)
    shown = capsys.readouterr()
    assert "warning" not in shown.err
    assert "without --classifier-weights" not in shown.out
    annotate_archive(bands, "y.zip", "bands_net:net", device="cpu", weights=turned)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "another order than the classes, cow, dog, hen, cat: accuracy would be 100.0 % so, not 0.0 %" in line
    torch.manual_seed(0)
    annotate_archive(bands, "z.zip", "bands_net:net", device="cpu")
    shown = capsys.readouterr()
    assert "bands_net:net without --classifier-weights" in shown.out
    assert "is about chance" in shown.err
    assert open_archive("z.zip").u is not None


def test_an_input_that_is_not_declared_gives_the_warning(bands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bands' network behind a layer that wants values about 0, as after mean and std."""
    weights = save("w.safetensors", [0, 1, 2, 3])
    Path("clamped.py").write_text(
        "import torch\nfrom torch import nn\nimport bands_net\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = bands_net.net()\n"
        "    def forward(self, x):\n        return self.net(x.clamp(-2, 0))\n"
        f"def net():\n    n = Net()\n    import safetensors.torch\n"
        f"    n.net.load_state_dict(safetensors.torch.load_file({weights!r}))\n    return n\n"
    )
    annotate_archive(bands, "y.zip", "clamped:net", device="cpu", declared=Declared(mean=(0.5,), std=(0.3,)))
    assert "warning" not in capsys.readouterr().err
    annotate_archive(bands, "z.zip", "clamped:net", device="cpu")
    assert "is about chance" in capsys.readouterr().err


def test_a_trained_classifier_is_not_told_of_options() -> None:
    line = misfit(np.zeros(80, int), np.arange(80) % 4, NAMES, trained=True)
    assert line is not None
    assert "--input" not in line
