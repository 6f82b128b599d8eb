"""What constraints.txt may pin: `pip install -c constraints.txt .` must go with every build of torch."""

from __future__ import annotations

import re
from pathlib import Path

LINES = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_what_a_cuda_build_of_torch_prescribes_is_left_to_it():
    """PyPI's torch 2.13.0 wants nvidia-cuda-nvrtc 13.0.88; a pin to another one made pip refuse to install anything."""
    names = [re.split(r"[=<>~! ;]", line)[0] for line in LINES if line and not line.startswith("#")]
    assert "torch" in names
    assert [name for name in names if name.startswith(("nvidia-", "cuda-bindings", "cuda-toolkit", "triton"))] == []
