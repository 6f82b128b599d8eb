"""Every command of the README runs, in its order, in one folder, as it stands but for options that shorten it."""

from __future__ import annotations

import gzip
import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What is added to a command so that the test is short; nothing is taken away.
SHORTER = {
    "scripts/train.py --data": ["--kimg=0.064", "--batch=8", "--tick=0.032", "--snap=1", "--device=cpu"],
    "scripts/train.py --resume": ["--kimg=0.096", "--device=cpu"],
    "dataset_tool.py moons": ["--num=400"],
    "dataset_tool.py digits": ["--max-images=200"],
    "stylegan2-msp report": ["--count=100"],
    "stylegan2-msp evaluate": ["--images=80"],
    "stylegan2-msp reproduce": ["--scale=0.002", "--images=80", "--seeds=1", "--variant=plain", "--device=cpu"],
}
FACTORY = """
import torch

def factory():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 2))
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].split(" #")[0].strip() for line in lines if line.strip()]


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def folder(tmp_path):
    """What the README assumes: MNIST files (here small ones with real digits), photographs, a classifier."""
    digits = load_digits()
    images = np.zeros((300, 28, 28))
    images[:, 2:26, 2:26] = np.kron(digits.images[:300] * 15.9, np.ones((1, 3, 3)))
    (tmp_path / "mnist").mkdir()
    for split in ("train", "t10k"):
        write_idx(tmp_path / "mnist" / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / "mnist" / f"{split}-labels-idx1-ubyte.gz", digits.target[:300])
    rng = np.random.RandomState(0)
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(60):
            Image.fromarray(rng.randint(0, 256, (70, 90, 3), dtype=np.uint8)).save(tmp_path / f"photos/{kind}/{i}.jpg")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(FACTORY)
    scope: dict = {}
    exec(FACTORY, scope)
    net = scope["factory"]().eval()
    save_file(net.state_dict(), str(tmp_path / "weights.safetensors"))
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (torch.rand(4, 3, 64, 64),), dynamic_shapes=({0: batch},))
    torch.export.save(program, str(tmp_path / "classifier.pt2"))
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    return tmp_path


def run(words: list[str], where: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if words[0] == "python":
        words = [sys.executable, *words[1:]]
    elif words[0] == "stylegan2-msp":
        words = [sys.executable, "-m", "stylegan2_msp", *words[1:]]
        environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_every_command_of_the_readme_runs(folder):
    elsewhere = ("bash scripts/demo.sh", "bash scripts/test.sh", "pip install")
    ran = [line for line in commands() if not line.startswith(elsewhere)]
    assert len(ran) >= 11
    for line in ran:
        words = shlex.split(line)
        run(words + next((more for start, more in SHORTER.items() if start in line), []), folder)
    assert (folder / "out" / "grid.png").is_file()
    assert len(list((folder / "threes").glob("*.png"))) == 81
    assert (folder / "report" / "results.json").is_file()
    (snippet,) = blocks("python")
    run(
        [
            "python",
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{snippet}\nassert images.shape == (2, 1, 32, 32)",
        ],
        folder,
    )


@pytest.mark.slow
def test_the_demo_runs_and_says_where_its_pictures_are(tmp_path):
    """The demo with its trainings cut short."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "demo.sh"), str(tmp_path / "demo")],
        env={**os.environ, "DEMO_QUICK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [Path(word) for word in re.findall(r"\S+\.png", done.stdout)]
    pictures = [p for p in shown if p.is_relative_to(tmp_path)]
    assert len(pictures) >= 6
    for picture in pictures:
        assert Image.open(picture).size[0] > 200
