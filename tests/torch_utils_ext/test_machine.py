"""The machine's description and its measured limits."""

from __future__ import annotations

import json

import pytest
import torch

from torch_utils_ext import machine


def test_the_description_is_json_and_names_what_matters() -> None:
    found = json.loads(json.dumps(machine.describe()))
    assert found["torch"] == torch.__version__
    assert found["cpu"]
    assert found["threads"] >= 1
    assert found["ram_gib"] > 0
    assert (found["gpu"] is None) == (not torch.cuda.is_available())
    assert found["commit"] is None or len(found["commit"]) in (12, 13)


def test_a_program_that_is_not_there_gives_nothing() -> None:
    assert machine._output("no-such-program-anywhere") is None


def test_fastest_counts_one_call() -> None:
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1
        torch.ones([64, 64]).sum()

    taken = machine._fastest(work, torch.device("cpu"), rounds=2)
    assert calls > 2
    assert 0 < taken < machine._MIN_SEC


def test_limits_are_those_of_a_computer() -> None:
    assert 1e8 < machine.copy_bandwidth("cpu") < 1e13
    assert 1e8 < machine.matrix_peak(torch.float32, "cpu") < 1e15


def test_products_that_would_take_seconds_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 on a processor without instructions for it, at 1 GFLOP/s, say: 1024 x 1024 would take 2 s each."""
    sides: list[int] = []

    def slow(work, device):
        done = work()
        if done.ndim == 4:
            raise AssertionError("the convolution would take seconds, too")
        sides.append(done.shape[0])
        return 2 * sides[-1] ** 3 / 1e9

    monkeypatch.setattr(machine, "_fastest", slow)
    assert machine.matrix_peak(torch.float32, "cpu") == pytest.approx(1e9)
    assert sides == [256]
    monkeypatch.setattr(machine, "_MOST_SEC", 4.0)
    machine.matrix_peak(torch.float32, "cpu")
    assert sides == [256, 256, 1024]
