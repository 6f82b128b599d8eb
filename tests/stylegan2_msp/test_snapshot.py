"""Snapshot files: equal content gives equal bytes, every length of header can be read, the file is as readable as any
new file, and the newest is the one that a run wrote last."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from stylegan2_msp.errors import UserError
from stylegan2_msp.networks import PointGenerator
from stylegan2_msp.snapshot import load_snapshot, newest_snapshot, save_snapshot


def test_any_length_of_header_can_be_read(tmp_path: Path) -> None:
    """The first byte of a safetensors file is its header's length modulo 256; 0x80 is how pickles begin, too."""
    torch.manual_seed(0)
    G = PointGenerator(4, 3, hidden=8, w_dim=8)
    first = set()
    for padding in range(0, 256, 8):
        path = tmp_path / f"{padding}.safetensors"
        save_snapshot(path, G, None, {"note": "x" * padding})
        first.add(path.read_bytes()[0])
        loaded = load_snapshot(path)
        assert loaded.info == {"note": "x" * padding}
        torch.testing.assert_close(dict(loaded.G.state_dict()), dict(G.state_dict()), rtol=0, atol=0)
    assert 0x80 in first
    assert len(first) == 32


def test_the_same_networks_give_the_same_bytes(tmp_path: Path) -> None:
    """The library that writes them puts the header's entries in another order every time."""
    G = PointGenerator(4, 3, hidden=8, w_dim=8)
    paths = [tmp_path / f"{i}.safetensors" for i in range(6)]
    for path in paths:
        save_snapshot(path, G, None, {"name": "Größe"})
    assert len({path.read_bytes() for path in paths}) == 1


def test_pickles_are_named_as_such(tmp_path: Path) -> None:
    for protocol in (2, 3, 4, 5):
        path = tmp_path / f"{protocol}.safetensors"
        path.write_bytes(pickle.dumps({"G_ema": list(range(50))}, protocol))
        with pytest.raises(UserError, match="is a pickle, which can run code and is never loaded"):
            load_snapshot(path)
    torch.save({"G": torch.ones(3)}, path)
    with pytest.raises(UserError, match=r"is a zip, so data or a pickle; give a network-snapshot-\*.safetensors"):
        load_snapshot(path)


def test_a_snapshot_may_be_read_by_whoever_may_read_new_files(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    path = tmp_path / "a.safetensors"
    save_snapshot(path, PointGenerator(4, 3, hidden=8, w_dim=8), None, {})
    assert path.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_the_newest_snapshot_is_the_last_of_the_newest_run(tmp_path: Path) -> None:
    """A copied folder's times are in the order of the copy, here the reverse of the training's."""
    for run, times in {"00000-a": (500, 400, 300), "00001-b": (900, 800, 700), "00002-c": (200, 200, 200)}.items():
        for kimg, time in zip((8, 100, 2000), times, strict=True):
            path = tmp_path / run / f"network-snapshot-{kimg:06d}.safetensors"
            path.parent.mkdir(exist_ok=True)
            path.touch()
            os.utime(path, (time, time))
    assert newest_snapshot(tmp_path) == tmp_path / "00001-b" / "network-snapshot-002000.safetensors"
    assert newest_snapshot(tmp_path / "00000-a").name == "network-snapshot-002000.safetensors"
    with pytest.raises(UserError, match="holds no network-snapshot"):
        newest_snapshot(tmp_path / "none")
