"""The `annotate` command: options reach the classifier, mistakes are one line and the right exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import nn

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.cli.dataset import dataset
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.data.samples import Samples, default_names

ROOT = Path(__file__).parents[3]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (24, 1, 8, 8), dtype=np.uint8)
    return write_archive(
        tmp_path / "x.zip", Samples(data, default_names("images", 24), np.arange(24) % 3), progress=False
    )


def test_every_option_reaches_the_classifier(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = (
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, 3), nn.Softmax(1))\n"
    )
    (tmp_path / "cli_net.py").write_text(code)
    linear = nn.Linear(768, 3)
    with torch.no_grad():
        linear.weight.mul_(0.1)
    safetensors.torch.save_file({"1.weight": linear.weight.detach(), "1.bias": linear.bias.detach()}, "w.safetensors")
    given = ["--data", str(archive), "--dest", "y.zip", "--classifier", "cli_net:make", "--device", "cpu"]
    given += ["--classifier-weights", "w.safetensors", "--classifier-output", "probs", "--input-size", "16"]
    given += ["--input-channels", "3", "--input-range", "0,255", "--input-mean", "100,110,120", "--input-std", "50"]
    result = CliRunner().invoke(dataset, ["annotate", *given], catch_exceptions=False)
    assert result.exit_code == 0
    assert "y.zip: annotated" in result.output
    done = open_archive(tmp_path / "y.zip")
    pixels = torch.from_numpy(done.load_images(progress=False)).float()
    pixels = nn.functional.interpolate(pixels, size=(16, 16), mode="bilinear").expand(-1, 3, -1, -1)
    pixels = (pixels - torch.tensor([100.0, 110.0, 120.0]).reshape(1, 3, 1, 1)) / 50
    expected = linear(pixels.flatten(1)).softmax(1)
    assert done.probs is not None
    torch.testing.assert_close(torch.from_numpy(done.probs), expected, atol=1e-5, rtol=1e-4)
    assert done.classifier_bytes is not None
    spec = FrozenClassifier.from_bytes(done.classifier_bytes).spec
    assert (spec.output, spec.input_size, spec.input_range) == ("probs", 16, (0.0, 255.0))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--classifier", "nothing.pt2"], 1, "nothing.pt2 cannot be read"),
        (["--classifier", "train", "--input-size", "16"], 1, "--classifier train"),
        (["--classifier", "train", "--classifier-weights", "w"], 1, "--classifier train"),
        (["--classifier", "train", "--input-range", "0"], 2, "expected 2 number"),
        (["--classifier", "train", "--input-mean", "a,b,c"], 2, "expected 1 or 3 number"),
        ([], 2, "--classifier"),
    ],
)
def test_mistakes_are_one_line(archive: Path, options: list[str], code: int, message: str) -> None:
    before = archive.read_bytes()
    script = [sys.executable, str(ROOT / "scripts" / "dataset_tool.py"), "annotate", "--data", str(archive)]
    done = subprocess.run([*script, *options], capture_output=True, text=True, cwd=archive.parent)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert archive.read_bytes() == before
