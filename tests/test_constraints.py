"""What constraints.txt may pin: `pip install -c constraints.txt .` must go with every build of torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
OLDEST = "3.10"  # Python of pyproject.toml's requires-python
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = [Requirement(line) for line in LINES if line and not line.startswith("#")]


def test_what_a_cuda_build_of_torch_prescribes_is_left_to_it():
    """PyPI's torch 2.13.0 wants nvidia-cuda-nvrtc 13.0.88; a pin to another one made pip refuse to install anything."""
    names = [pin.name for pin in PINS]
    assert "torch" in names
    assert [name for name in names if name.startswith(("nvidia-", "cuda-bindings", "cuda-toolkit", "triton"))] == []


def test_what_the_oldest_python_cannot_have_is_not_pinned_for_it():
    """filelock 4.2 wants Python 3.11, and pip refused to install anything on 3.10."""
    assert f'requires-python = ">={OLDEST}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    too_new = []
    for pin in PINS:
        if pin.marker is not None and not pin.marker.evaluate({"python_version": OLDEST}):
            continue
        try:
            about = metadata(pin.name)
        except PackageNotFoundError:
            continue
        if pin.specifier.contains(about["Version"]) and OLDEST not in SpecifierSet(about["Requires-Python"] or ""):
            too_new.append(str(pin))
    assert too_new == []
