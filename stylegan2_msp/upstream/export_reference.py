"""A snapshot as the pickle that a checkout of stylegan2-ada-pytorch keeps its networks in."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stylegan2_msp.errors import UserError
from stylegan2_msp.files import replacing
from stylegan2_msp.networks import build_network
from stylegan2_msp.snapshot import Snapshot, load_discriminator, load_snapshot
from stylegan2_msp.training.checkpoint import load_state, state_beside
from stylegan2_msp.upstream.adapter import adapted
from stylegan2_msp.upstream.import_network import import_network

_PROTOCOL = 4


def export_reference(network: Path, dest: Path) -> list[str]:
    """Writes the snapshot `network` as a pickle with G, D, G_ema, augment_pipe and training_set_kwargs.

    The label is [class one-hot, uncertainty], as the checkout's own dataset class reads it from our archives. G and D
    come from the training state of the same kimg beside the snapshot, where there is one.

    Returns:
        What the user should know, one line each.

    Raises:
        UserError: the snapshot is of 2-D points, or the written file did not read back the same.
    """
    snapshot = load_snapshot(network)
    if snapshot.info.get("kind", "images") != "images":
        raise UserError(f"{network}: generates 2-D points, the family's pickles hold networks of images; use --to onnx")
    content, notes = reference_content(snapshot)
    with replacing(dest) as temporary:
        with open(temporary, "wb") as file:
            pickle.dump(content, file, protocol=_PROTOCOL)
        _check(temporary, snapshot.G, dest)
    return notes


def reference_content(snapshot: Snapshot) -> tuple[dict[str, Any], list[str]]:
    """What the pickle of a snapshot holds, and what the user should know of it."""
    G, D, notes = _trained(snapshot)
    content: dict[str, Any] = {
        "G": adapted(G),
        "D": adapted(D),
        "G_ema": adapted(snapshot.G),
        "augment_pipe": None,
        "training_set_kwargs": _training_set(snapshot),
        "stylegan2_msp": {
            "info": json.dumps(snapshot.info),
            "classifier": snapshot.classifier.to_bytes() if snapshot.classifier is not None else None,
        },
    }
    return content, notes


def _trained(snapshot: Snapshot) -> tuple[nn.Module, nn.Module, list[str]]:
    """G and D: from the snapshot, from the training state beside it, or as new as they have to be."""
    kept = load_discriminator(snapshot.path)
    if kept is not None:
        return snapshot.G, kept, []
    state = state_beside(snapshot.path)
    if state is not None:
        config, weights = load_state(state)
        G, D = build_network(config.G_name, config.G_kwargs), build_network(config.D_name, config.D_kwargs)
        G.load_state_dict(weights["G"])
        D.load_state_dict(weights["D"])
        return G, D, [f"G and D from {state}"]
    of_G: Any = snapshot.G.init_kwargs
    kwargs: Any = {"c_dim": 0, **snapshot.info.get("config", {}).get("D_kwargs", {})}
    kwargs |= {name: of_G[name] for name in ("c_dim", "img_resolution", "img_channels")}
    mapping = {name: value for name, value in kwargs.get("mapping_kwargs", {}).items() if name != "u_dim"}
    u_dim = (of_G.get("mapping_kwargs") or {}).get("u_dim", 1)
    kwargs["mapping_kwargs"] = mapping | ({"u_dim": u_dim} if u_dim > 1 else {})
    torch.manual_seed(0)
    note = "no training state beside the snapshot: D in the pickle is untrained (metrics and images do not use it)"
    return snapshot.G, build_network("Discriminator", kwargs), [note]


def _training_set(snapshot: Snapshot) -> dict[str, Any] | None:
    """Arguments of the checkout's dataset class for the archive that the network was trained on."""
    config = snapshot.info.get("config") or {}
    if not config.get("data"):
        return None
    return {
        "class_name": "training.dataset.ImageFolderDataset",
        "path": str(Path(config["data"]).resolve()),
        "use_labels": snapshot.info.get("condition") != "none",
        "max_size": None,
        "xflip": bool(config.get("mirror")),
        "resolution": snapshot.G.init_kwargs["img_resolution"],  # type: ignore[index]
    }


def _check(written: Path, G: nn.Module, dest: Path) -> None:
    """Reads the file back as data and compares the generator, bit by bit."""
    back = import_network(written).G.state_dict()
    if any(not torch.equal(value, back[name]) for name, value in G.state_dict().items()):
        raise UserError(f"{dest}: did not read back as it was written; nothing was left there")
