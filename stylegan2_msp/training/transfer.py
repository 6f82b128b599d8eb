"""Starting a new run from the networks of another one, or from imported ones, that knew less of the label.

What is new in the label starts without effect: its columns are zero in the first layer that sees them, and the columns
that were there are scaled by what the wider layer's equalised learning rate takes away. So the first images, and D's
first answers, are those of the networks that were given.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stylegan2_msp.config import TrainConfig
from stylegan2_msp.errors import UserError
from stylegan2_msp.snapshot import load_discriminator, load_snapshot
from stylegan2_msp.training.checkpoint import TrainState, load_state, state_beside

_TWO_PARTS = ("split", "learned")  # embeddings whose features are the class's, then those of u
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Label:
    """What a label vector is made of: class numbers, then numbers of uncertainty, for D perhaps the sharpness."""

    classes: int
    u: int
    sharpness: bool = False

    @staticmethod
    def of(condition: str, G_kwargs: dict[str, Any]) -> Label:
        """From a run's condition and its generator's arguments."""
        if condition != "class+msp":
            return Label(G_kwargs["c_dim"], 0)
        u = G_kwargs["mapping_kwargs"].get("u_dim", 1)
        return Label(G_kwargs["c_dim"] - u, u)


@dataclass(frozen=True)
class Source:
    """Networks to start from.

    Attributes:
        path: where they were read.
        kwargs: arguments of 'G', and of 'D' where it is there.
        weights: tensors of 'G', 'G_ema' and perhaps 'D'.
        label: that G is given.
    """

    path: Path
    kwargs: dict[str, dict[str, Any]]
    weights: dict[str, Weights]
    label: Label

    def told(self, name: str) -> Label:
        """What network `name` is told."""
        return _told_to(self.label, self.kwargs[name[0]])


def _told_to(label: Label, kwargs: dict[str, Any]) -> Label:
    return dataclasses.replace(label, sharpness=kwargs["c_dim"] > label.classes + label.u)


def _but_for_sharpness(source: Label, target: Label) -> bool:
    return source.u > 0 and dataclasses.replace(source, sharpness=target.sharpness) == target


def read_source(path: Path) -> Source:
    """The networks of a snapshot or of a training state; raises `UserError`.

    A snapshot without D stands for the training state of the same kimg beside it, where there is one.
    """
    D = load_discriminator(path) if path.suffix == ".safetensors" else None
    beside = state_beside(path) if D is None else None
    if beside is not None or path.suffix != ".safetensors":
        config, saved = load_state(beside or path)
        names = ("G", "D", "G_ema")
        kwargs = {"G": config.G_kwargs, "D": config.D_kwargs}
        return Source(path, kwargs, {name: saved[name] for name in names}, Label.of(config.condition, config.G_kwargs))
    snapshot = load_snapshot(path)
    own: Any = snapshot.G.init_kwargs
    weights = dict(snapshot.G.state_dict())
    networks, kwargs = {"G": weights, "G_ema": weights}, {"G": own}
    if D is not None:
        of_D: Any = D.init_kwargs
        networks["D"], kwargs["D"] = dict(D.state_dict()), of_D
    condition = snapshot.info.get("condition", "class+msp" if own["c_dim"] else "none")
    label = Label.of(condition, own)
    if label.u:
        classes = int(snapshot.info.get("num_classes") or label.classes)
        label = Label(classes, own["c_dim"] - classes)
    return Source(path, kwargs, networks, label)


def adopted(config: TrainConfig, source: Source, given: dict[str, Any]) -> TrainConfig:
    """The configuration with networks of the source's shape, so that its weights fit; only the label may differ.

    Raises:
        UserError: the images are of another size, or an option asks for another shape.
    """
    if "img_resolution" not in source.kwargs["G"] or config.G_name != "Generator":
        return config  # 2-D points: what fits is copied
    old, new = source.kwargs["G"], config.G_kwargs
    if any(old[name] != new[name] for name in ("img_resolution", "img_channels")):
        raise UserError(
            f"--resume {source.path}: is for {old['img_channels']} x {old['img_resolution']} x {old['img_resolution']} "
            f"images, the data are {new['img_channels']} x {new['img_resolution']} x {new['img_resolution']}; "
            "make the data that size"
        )
    if given.get("z_dim") not in (None, old["z_dim"]):
        raise UserError(f"--z-dim {given['z_dim']}: {source.path} has {old['z_dim']}; leave it out")
    target = Label.of(config.condition, new)
    G_kwargs = {
        **old,
        "c_dim": new["c_dim"],
        "mapping_kwargs": _mapping_kwargs(source.label, target, old, old["w_dim"], new["mapping_kwargs"], given),
        "synthesis_kwargs": _with_precision(old["synthesis_kwargs"], new["synthesis_kwargs"]),
    }
    if "D" not in source.kwargs:
        return dataclasses.replace(config, G_kwargs=G_kwargs)
    old, new = source.kwargs["D"], config.D_kwargs
    features = old.get("cmap_dim") or min(old.get("channel_base", 32768) // 4, old.get("channel_max", 512))
    group = {"mbstd_group_size": new["epilogue_kwargs"]["mbstd_group_size"]}
    D_kwargs = {
        **_with_precision(old, new),
        "c_dim": new["c_dim"],
        "block_kwargs": {**(old.get("block_kwargs") or {}), **new["block_kwargs"]},
        "epilogue_kwargs": {**(old.get("epilogue_kwargs") or {}), **group},
        "mapping_kwargs": _mapping_kwargs(
            source.told("D"), _told_to(target, new), old, features, new["mapping_kwargs"], given
        )
        if old["c_dim"]
        else new["mapping_kwargs"],
    }
    return dataclasses.replace(config, G_kwargs=G_kwargs, D_kwargs=D_kwargs)


def _with_precision(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The old arguments with this machine's choice of half precision; a bound that was there stays."""
    clamp = old.get("conv_clamp")
    half = {name: new[name] for name in ("num_fp16_res", "half_dtype")}
    return {**old, **half, "conv_clamp": new["conv_clamp"] if clamp is None else clamp}


def _mapping_kwargs(
    source: Label, target: Label, old: dict[str, Any], w_dim: int, wanted: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    mapping = dict(old.get("mapping_kwargs") or {})
    kept = given.get("embedding") in (None, mapping.get("embedding", "split"))
    if source == target and kept:
        return mapping
    if _but_for_sharpness(source, target) and kept:
        return mapping | {"u_dim": target.u + target.sharpness}
    for name in ("embedding", "u_dim", "truncation"):
        mapping.pop(name, None)
    mapping |= {name: wanted[name] for name in ("embedding", "u_dim") if name in wanted}
    if mapping.get("num_layers", 8) == 0:
        mapping["embedding"] = "linear"  # there is no layer after it that could take more features
    if source.classes:
        features = mapping.get("embed_features") or w_dim
        doubled = _adds_u(source, target) and mapping["embedding"] in _TWO_PARTS
        mapping["embed_features"] = 2 * features if doubled else features
    return mapping


def _adds_u(source: Label, target: Label) -> bool:
    return source.u == 0 and target.u > 0 and source.classes == target.classes > 0


def load_weights(path: Path, state: TrainState, config: TrainConfig) -> None:
    """Copies weights of a snapshot (G, and D where it holds one) or a training state into the networks of `state`.

    Raises:
        UserError: nothing fits.
    """
    source = read_source(path)
    target = Label.of(config.condition, config.G_kwargs)
    copied = 0
    for name, weights in source.weights.items():
        network = getattr(state, name)
        own = network.state_dict()
        fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
        if "img_resolution" in source.kwargs["G"]:
            kwargs = config.D_kwargs if name == "D" else config.G_kwargs
            z_dim = source.kwargs[name[0]].get("z_dim", 0)
            fitting |= _label_layers(weights, own, source.told(name), _told_to(target, kwargs), z_dim)
        network.load_state_dict(fitting, strict=False)
        copied += len(fitting)
    if not copied:
        raise UserError(f"--resume {path}: none of its weights fits this network; use data of the same kind")
    print(f"Took {copied} tensors from {path}{_remarks(source, target)}.", flush=True)


def _label_layers(old: Weights, new: Weights, source: Label, target: Label, z_dim: int) -> Weights:
    """The layers that see the label, where what they see became more; the addition has no effect yet."""
    made: Weights = {}
    adds_u = _adds_u(source, target)
    if adds_u and "mapping.embed.weight" in old:
        if "mapping.embed.weight" in new:
            made["mapping.embed.weight"] = widened(old["mapping.embed.weight"], new["mapping.embed.weight"])
        else:
            made["mapping.embed.by_class.weight"] = old["mapping.embed.weight"]
            made["mapping.embed.by_class.bias"] = old["mapping.embed.bias"]
    if adds_u or (z_dim and not source.classes and target.classes):
        made |= {name: torch.zeros_like(value) for name, value in new.items() if name.startswith("mapping.film.layers")}
        first = "mapping.fc0.weight"
        if first in old and first in new and new[first].shape != old[first].shape:
            made[first] = widened(old[first], new[first])
    if _but_for_sharpness(source, target) and target.sharpness:
        for name in old.keys() & new.keys():
            (out, *inputs), (new_out, *more) = old[name].shape or (0,), new[name].shape or (0,)
            if name.startswith("mapping.") and out == new_out and inputs < more:
                made[name] = widened(old[name], new[name])
    return made


def widened(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """The weight [out, in] of a layer with equalised learning rate for more inputs, which add nothing at first.

    Such a layer computes x W^T / sqrt(in) (Karras 2018, "Progressive Growing", section 4.1).

    Args:
        old: [out, in].
        new: any weight of the wider layer's shape [out, more].
    """
    weight = torch.zeros_like(new)
    weight[:, : old.shape[1]] = old.to(new.device) * math.sqrt(new.shape[1] / old.shape[1])
    return weight


def _remarks(source: Source, target: Label) -> str:
    remarks = []
    if _adds_u(source.label, target):
        remarks.append("the uncertainty starts without effect")
    elif source.label != target:
        remarks.append(f"layers of the label start anew ({_told(source.label)} there, {_told(target)} here)")
    if "D" not in source.weights:
        remarks.append("it holds no discriminator: D starts anew")
    return "".join(f"; {remark}" for remark in remarks)


def _told(label: Label) -> str:
    return f"{label.classes} classes" + (" and uncertainty" if label.u else "")
