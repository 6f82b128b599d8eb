"""What the tests of whole training runs share: options of a very short one, and what is compared of two."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from stylegan2_msp.training.checkpoint import list_states, load_state

SMALL = {
    "cfg": "tiny",
    "batch": 8,
    "kimg": 0.096,
    "tick": 0.032,
    "snap": 1,
    "metrics": "none",  # those of every tick would take a third of so short a run
    "consistency_kimg": 0.04,
    "z_dim": 16,
}


def only_run(outdir: Path) -> Path:
    (run,) = outdir.iterdir()
    return run


def assert_same(a, b, where="state"):
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def final_state(run: Path):
    state = load_state(list_states(run)[-1])[1]
    del state["counters"]["seconds"]
    return state


def losses(run: Path):
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k.startswith("loss/")} for row in rows]
