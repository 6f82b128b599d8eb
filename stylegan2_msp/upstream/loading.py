"""What a checkout gets from its network files: our snapshots as well, and what a generator's label holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATASET = "stylegan2_msp.upstream.dataset.MspDataset"
_LONGEST_HEADER = 100 << 20  # safetensors' own bound


@dataclass(frozen=True)
class Label:
    """What c holds beside the class: ``size`` numbers of the measure ``uncertainty``, or none."""

    num_classes: int
    uncertainty: str = "msp"
    size: int = 1


def reading_ours(load: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The checkout's `load_network_pkl`, which then takes `network-snapshot-*.safetensors` too."""

    def load_network(f: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        data = _our_snapshot(f) if _is_safetensors(f) else load(f, *args, **kwargs)
        data["G_ema"].msp_label = label_of(data)
        return data

    return load_network


def label_of(data: dict[str, Any]) -> Label | None:
    """What a pickle's dictionary says of its label; None where nothing tells."""
    c_dim = int(data["G_ema"].c_dim)
    ours = data.get("stylegan2_msp")
    trained_on = data.get("training_set_kwargs") or {}
    if ours is not None:
        info = json.loads(ours["info"])
        num_classes, name = int(info.get("num_classes") or 0), str(info.get("uncertainty") or "msp")
        known = info.get("condition") == "class+msp"
        if info.get("condition") in ("none", "class"):
            return Label(c_dim, size=0)
    else:
        name = str(trained_on.get("uncertainty") or "msp")
        num_classes = c_dim // 2 if name == "softmax" else c_dim - 1
        known = trained_on.get("class_name") == DATASET
    return Label(num_classes, name, c_dim - num_classes) if known and 0 < num_classes < c_dim else None


def _is_safetensors(f: Any) -> bool:
    """Whether a file begins with a length and a brace, which no pickle does."""
    start = f.read(9)
    f.seek(0)
    return start[8:] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def _our_snapshot(f: Any) -> dict[str, Any]:
    """A snapshot of our own training as the dictionary of a pickle."""
    from stylegan2_msp.snapshot import load_snapshot
    from stylegan2_msp.upstream.adapter import adapted
    from stylegan2_msp.upstream.export_reference import reference_content

    snapshot = load_snapshot(Path(f.name))
    content, _ = reference_content(snapshot)
    return content | {"G_ema": adapted(snapshot.G)}
