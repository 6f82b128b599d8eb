"""From the inert records of the family's pickled networks to the arguments that rebuild them here.

Sizes come from the tensors that are there, never from a claim; the few choices that leave no trace in a shape
(clamps, activations, half precision) come from the attributes that the family's modules keep. Both hold for
stylegan2-ada-pytorch and for the StyleGAN2 networks of the stylegan3 repository, whose defaults differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch

from stylegan2_msp.upstream.pickle_machine import Refused, shown
from stylegan2_msp.upstream.unpickle import ModuleRecord
from torch_utils_ext.ops.activations import activation_funcs

Tensors = dict[str, torch.Tensor]
_MAX_COUNT = 5000  # tensors, and modules; a network of 1024 x 1024 pixels has some 200
_MAX_TAPS = 64
_MAX_NUMBER = 1e9
_WHOLE_BATCH = 1 << 30  # the family says None where minibatch statistics are over all samples


def tensors_of(record: ModuleRecord) -> Tensors:
    """Parameters and buffers by their full names; raises `Refused` where a module holds something else."""
    found: Tensors = {}
    waiting = [("", record)]
    for _ in range(_MAX_COUNT):
        if not waiting:
            return found | _unused_filters(found)
        prefix, module = waiting.pop()
        for group in ("_parameters", "_buffers"):
            for name, value in _table(module, group).items():
                if isinstance(value, torch.Tensor) and value.is_floating_point():
                    found[f"{prefix}{name}"] = value
                elif value is not None:
                    raise Refused(f"its {shown(f'{prefix}{name}')} is no tensor of real numbers")
        for name, child in _table(module, "_modules").items():
            if isinstance(child, ModuleRecord):
                waiting.append((f"{prefix}{name}.", child))
            elif child is not None:
                raise Refused(f"its {shown(f'{prefix}{name}')} is no module")
    raise Refused(f"it holds a network of more than {_MAX_COUNT} modules")


def _unused_filters(tensors: Tensors) -> Tensors:
    """The block's filter for each conv1, which does not resample: the family leaves its default there, unused."""
    names = [m for name in tensors if (m := re.fullmatch(r"(synthesis\.b\d+\.)conv1\.resample_filter", name))]
    used = {m.group(0): f"{m.group(1)}resample_filter" for m in names}
    return {name: tensors[filter_] for name, filter_ in used.items() if filter_ in tensors}


def generator_kwargs(record: ModuleRecord, tensors: Tensors) -> dict[str, Any]:
    """Arguments of `networks.Generator` for a record of the family's; raises `Refused` for another network."""
    sizes = _block_sizes(tensors, r"synthesis\.b(\d{1,5})\.conv1\.weight")
    top = max(sizes)
    conv = _child(record, "synthesis", f"b{top}", "conv1")
    w_dim = _size(tensors, "synthesis.b4.conv1.affine.weight", 1)
    mapping = _mapping_kwargs(_child(record, "mapping"), tensors)
    return {
        "z_dim": _size(tensors, "mapping.fc0.weight", 1) - (mapping["embed_features"] or 0),
        "c_dim": _c_dim(tensors),
        "w_dim": w_dim,
        "img_resolution": top,
        "img_channels": _size(tensors, f"synthesis.b{top}.torgb.weight", 0),
        "mapping_kwargs": {
            **mapping,
            "w_avg_beta": _number(_child(record, "mapping"), "w_avg_beta"),
            "truncation": "global",
        },
        "synthesis_kwargs": {
            **_channels(sizes),
            **_half(_child(record, "synthesis", f"b{r}") for r in sizes),
            "architecture": _architecture(tensors, f"synthesis.b{top}.skip", "synthesis.b4.torgb"),
            "resample_filter": _taps(tensors, f"synthesis.b{top}.resample_filter"),
            "conv_clamp": _number(conv, "conv_clamp"),
            "use_noise": f"synthesis.b{top}.conv1.noise_strength" in tensors,
            "activation": _activation(conv),
        },
    }


def discriminator_kwargs(record: ModuleRecord, tensors: Tensors) -> dict[str, Any]:
    """Arguments of `networks.Discriminator` for a record of the family's; raises `Refused` for another network."""
    sizes = _block_sizes(tensors, r"b(\d{1,5})\.conv0\.weight")
    top, at_4 = max(sizes), _size(tensors, "b4.conv.weight", 0)
    conv = _child(record, f"b{top}", "conv0")
    half = _half(_child(record, f"b{r}") for r in sizes)
    kwargs: dict[str, Any] = {
        "c_dim": _c_dim(tensors),
        "img_resolution": top,
        "img_channels": _size(tensors, f"b{top}.fromrgb.weight", 1),
        "architecture": _architecture(tensors, f"b{top}.skip", "b4.fromrgb"),
        **_channels({**sizes, 4: at_4}),
        "num_fp16_res": half["num_fp16_res"],
        "conv_clamp": _number(conv, "conv_clamp"),
        "block_kwargs": {
            "activation": _activation(conv),
            "resample_filter": _taps(tensors, f"b{top}.resample_filter"),
            "fp16_channels_last": half["fp16_channels_last"],
        },
        "epilogue_kwargs": _epilogue(_child(record, "b4"), _size(tensors, "b4.conv.weight", 1) - at_4),
    }
    if kwargs["c_dim"]:
        kwargs["cmap_dim"] = _size(tensors, "b4.out.weight", 0)
        kwargs["mapping_kwargs"] = _mapping_kwargs(_child(record, "mapping"), tensors)
    return kwargs


def _mapping_kwargs(mapping: ModuleRecord, tensors: Tensors) -> dict[str, Any]:
    layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in tensors)
    embedded = "mapping.embed.weight" in tensors
    kwargs: dict[str, Any] = {
        "num_layers": layers,
        "embed_features": _size(tensors, "mapping.embed.weight", 0) if embedded else None,
        "embedding": "linear",
    }
    if layers:
        first = _child(mapping, "fc0")
        kwargs["activation"] = _activation(first)
        kwargs["lr_multiplier"] = _number(first, "bias_gain")
    if layers > 1:
        kwargs["layer_features"] = _size(tensors, "mapping.fc0.weight", 0)
    return kwargs


def _epilogue(last: ModuleRecord, std_channels: int) -> dict[str, Any]:
    kwargs: dict[str, Any] = {
        "mbstd_num_channels": std_channels,
        "activation": _activation(_child(last, "conv")),
    }
    if std_channels:
        group = _number(_child(last, "mbstd"), "group_size")
        kwargs["mbstd_group_size"] = _WHOLE_BATCH if group is None else max(1, int(group))
    return kwargs


def _architecture(tensors: Tensors, skip: str, image_at_4: str) -> str:
    if f"{skip}.weight" in tensors:
        return "resnet"
    return "skip" if f"{image_at_4}.weight" in tensors else "orig"


def _block_sizes(tensors: Tensors, pattern: str) -> dict[int, int]:
    """Channels by resolution."""
    found = {int(m.group(1)): len(tensors[name]) for name in tensors if (m := re.fullmatch(pattern, name))}
    if not found:
        raise Refused("it holds no blocks of a StyleGAN2")
    return found


def _channels(sizes: dict[int, int]) -> dict[str, int]:
    most = max(sizes.values())
    base = max([r * n for r, n in sizes.items() if n < most] or [max(sizes) * most])
    if any(min(base // r, most) != n for r, n in sizes.items()):
        raise Refused(f"its channels {shown(str(sizes))} do not halve from block to block")
    return {"channel_base": base, "channel_max": most}


def _half(blocks: Iterable[ModuleRecord]) -> dict[str, Any]:
    halves = [block for block in blocks if block.state.get("use_fp16") is True]
    last = any(block.state.get("channels_last") is True for block in halves)
    return {"num_fp16_res": len(halves), "fp16_channels_last": last}


def _taps(tensors: Tensors, name: str) -> list[float]:
    """The taps of a separable filter from its stored, normalised form."""
    if name not in tensors or not 1 <= tensors[name].ndim <= 2 or not 1 <= tensors[name].numel() <= _MAX_TAPS**2:
        raise Refused(f"its {shown(name)} is no filter")
    stored = tensors[name].double()
    return [float(v) for v in (stored.sum(dim=1) if stored.ndim == 2 else stored)]


def _c_dim(tensors: Tensors) -> int:
    return _size(tensors, "mapping.embed.weight", 1) if "mapping.embed.weight" in tensors else 0


def _size(tensors: Tensors, name: str, dim: int) -> int:
    if name not in tensors or tensors[name].ndim <= dim:
        raise Refused(f"it is no StyleGAN2: {shown(name)} is missing or has another shape")
    return tensors[name].shape[dim]


def _child(record: ModuleRecord, *names: str) -> ModuleRecord:
    for name in names:
        child = _table(record, "_modules").get(name)
        if not isinstance(child, ModuleRecord):
            raise Refused(f"it is no StyleGAN2: its {shown(record.class_name)} has no {name}")
        record = child
    return record


def _table(record: ModuleRecord, group: str) -> dict[Any, Any]:
    table = record.state.get(group)
    if not isinstance(table, dict) or len(table) > _MAX_COUNT:
        raise Refused(f"its {shown(record.class_name)} has no table {group}: it is no PyTorch module")
    return table


def _number(record: ModuleRecord, name: str) -> float | None:
    value = record.state.get(name, ...)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _MAX_NUMBER:
        raise Refused(f"its {shown(record.class_name)} has no number {name}")
    return value


def _activation(record: ModuleRecord) -> str:
    value = record.state.get("activation")
    if not isinstance(value, str) or value not in activation_funcs:
        raise Refused(f"its {shown(record.class_name)} has no activation that is known")
    return value
