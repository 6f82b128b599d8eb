"""Devices by name, and what is asked of the allocator."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from stylegan2_msp.device import pick_device
from stylegan2_msp.errors import UserError

COUNT_FAULTS = """
import resource, sys, torch
from stylegan2_msp.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def layer():
    return torch.ones(12_000_000) + torch.ones(12_000_000)
for _ in range(3):
    layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_names() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="--device nonsense: this machine's PyTorch cannot use it"):
        pick_device("nonsense")


def test_a_device_without_double_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac's GPU, on which measures such as softmax would end in a traceback."""

    def empty_there(*_: int, dtype: torch.dtype = torch.float32, device: torch.device) -> None:
        if dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as it has none.")

    monkeypatch.setattr(torch, "empty", empty_there)
    with pytest.raises(UserError, match="this machine's PyTorch cannot use it"):
        pick_device("mps")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_freed_memory_is_not_faulted_in_again() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("keep", "return")
    }
    assert faults["keep"] < faults["return"] / 10
