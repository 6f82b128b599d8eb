"""Every snippet of docs/own-classifier.md runs, in its order, on small photographs of three classes."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from stylegan2_msp.cli.main import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "own-classifier.md").read_text(encoding="utf-8")
CLASSES = ["bird", "cat", "dog"]
INPUT = ["--input-size", "48", "--input-mean", "0.485,0.456,0.406", "--input-std", "0.229,0.224,0.225"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the page assumes: photographs, here of one colour per class, and the state of the page's own network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        Path(re.match(r"# (\w+\.py)\n", code)[1]).write_text(code)
    rng = np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 120, (70, 90, 3), dtype=np.uint8)
            pixels[..., k] += rng.integers(10, 100, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    torch.manual_seed(0)
    import mynet

    net, classes = mynet.make(), torch.arange(60) % 3
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        images = torch.rand(60, 3, 48, 48) * 0.47
        images[torch.arange(60), classes] += torch.rand(60, 1, 1) * 0.35 + 0.04
        x = (images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / 0.226
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), classes).backward()
        optimiser.step()
    state = net.state_dict()
    torch.save(state, "state.pt")
    torch.save(state | {name: state[name][[2, 0, 1]] for name in ("5.weight", "5.bias")}, "other-order.pt")
    yield tmp_path
    sys.modules.pop("mynet")


def run(words: list[str]) -> str:
    """A command's output, or of `python FILE` nothing; both in this process, which has torch already."""
    if words[0] == "python":
        runpy.run_path(words[1], run_name="__main__")
        return ""
    assert words[0] == "stylegan2-msp"
    done = CliRunner().invoke(main, words[1:], catch_exceptions=False)
    assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}"
    return done.output


def misfit(output: str) -> bool:
    """Whether a warning says that the classifier does not fit (that all is easy for it is another one)."""
    return "about chance" in output or "in another order" in output


def test_the_page_runs_as_it_stands(folder: Path) -> None:
    bash = "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)).replace("\\\n", " ")
    shown = [run(shlex.split(line)) for line in bash.splitlines() if line]
    assert "3 classes (bird: 10, cat: 10, dog: 10)" in shown[0]
    annotations = [output for output in shown if "annotated" in output]
    assert len(annotations) == 2
    for output in annotations:
        assert float(re.search(r"accuracy ([\d.]+) %", output)[1]) > 95
        assert not misfit(output)
        assert "without --classifier-weights" not in output
    annotate = ["stylegan2-msp", "dataset", "annotate", "--data", "photos.zip", "--dest", "x.zip", *INPUT]
    runpy.run_path("reorder.py")
    assert not misfit(run([*annotate, "--classifier", "ordered.pt2"]))
    save_file(torch.load("other-order.pt", weights_only=True), "other.safetensors")
    output = run([*annotate, "--classifier", "mynet:make", "--classifier-weights", "other.safetensors"])
    assert "seem to be in another order than the classes, dog, bird, cat:" in output
    assert "the archive's order, bird, cat, dog" in output
