"""What a training run is made of: the options that were given become one resolved configuration."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from stylegan2_msp.errors import UserError
from stylegan2_msp.options import condition_terms
from stylegan2_msp.presets import PRESETS, ResolvedPreset, resolve_preset


@dataclass(frozen=True)
class DataInfo:
    """What the resolution of a configuration needs to know of the data."""

    kind: str  # 'images' or 'points'
    img_resolution: int
    img_channels: int
    num_classes: int
    annotated: bool
    u_size: int = 1  # numbers of uncertainty in a label: K for the softmax vector


@dataclass(frozen=True)
class TrainConfig:
    """A resolved run: every value that training uses. Plain JSON data inside, saved with every state and snapshot."""

    data: str
    condition: str  # 'none', 'class' or 'class+msp'
    seed: int
    kimg: float
    batch: int
    batch_gpu: int
    G_name: str
    G_kwargs: dict[str, Any]
    D_name: str
    D_kwargs: dict[str, Any]
    lrate: float
    gamma: float
    pl_weight: float
    style_mixing: float
    ema_kimg: float
    ema_rampup: float | None
    aug: str  # 'ada', 'fixed' or 'noaug'
    aug_p: float
    ada_target: float
    ada_kimg: float
    augpipe: str
    consistency: float  # weights and schedule of the consistency terms: see training.consistency
    consistency_kimg: float
    flatten: float
    mirror: bool
    subset: int | None
    snap: int
    tick_kimg: float
    metrics: str
    cfg: str = "auto"
    data_sha256: str = ""
    betas: tuple[float, float] = (0.0, 0.99)
    r1_interval: int = 16
    pl_interval: int = 4
    ada_interval: int = 4
    consistency_ramp: float = 0.0
    consistency_uniform: float = 0.0
    consistency_share: float = 0.5
    consistency_class: float = 0.0
    consistency_augment: float = 0.0
    consistency_witness: float = 0.0  # weight of what the witness charges: see training.witness
    label_noise: float | str = 0.0  # sigma, or 'auto'
    vicinal: float = 0.0  # kappa
    sharpness: bool = False  # D is told how sharp an image is for its class and level
    diversity: float = 0.0  # weight of the charge for a lack of it: see training.diversity
    noise_start: float = 0.0  # strength of the noise in G's last layer; above 0 all strengths learn slowly
    given: dict[str, Any] = field(default_factory=dict)  # options of the command line, for --resume

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> TrainConfig:
        """The configuration that `to_dict` wrote."""
        return TrainConfig(**{**values, "betas": tuple(values["betas"])})


def resolve(given: dict[str, Any], data: DataInfo, processes: int, device: str, bf16_cpu: bool) -> TrainConfig:
    """Fills every option that was not given from the preset table.

    Args:
        given: options of the command line that were given, by name (``{'gamma': 1.0}``).
        data: the training data.
        processes: number of processes that share the batch.
        device: 'cpu' or 'cuda'.
        bf16_cpu: whether the processor multiplies bfloat16 matrices natively.

    Raises:
        UserError: options contradict each other or the data.
    """
    name = given.get("cfg") or "auto"
    if data.kind == "points":
        if name not in ("auto", "points"):
            raise UserError(f"--cfg {name}: is for images, the data are 2-D points; leave --cfg out")
        name = "points"
    elif name == "points":
        raise UserError("--cfg points: is for 2-D points, the data are images; leave --cfg out")
    elif name == "auto" and device == "cpu":
        name = "tiny"
    preset = resolve_preset(PRESETS[name], data.img_resolution, processes)
    condition = _condition(given, data)

    def pick(option: str, default: Any) -> Any:
        value = given.get(option)
        return default if value is None else value

    batch = pick("batch", preset.batch)
    if batch < 1 or batch % processes:
        raise UserError(f"--batch {batch}: must be a positive multiple of the {processes} processes; choose another")
    batch_gpu = pick("batch_gpu", batch // processes)
    if (batch // processes) % batch_gpu:
        raise UserError(f"--batch-gpu {batch_gpu}: must divide the {batch // processes} images of one process")
    if pick("mirror", False) and condition == "class+msp":
        raise UserError(
            "--mirror: a flipped image would keep the unflipped one's MSP; leave it out, and add flips that have "
            "their own by 'dataset annotate --mirror'"
        )
    aug = pick("aug", "noaug" if data.kind == "points" else "ada")
    if data.kind == "points" and aug != "noaug":
        raise UserError(f"--aug {aug}: 2-D points have no augmentation; use --aug noaug")
    if aug == "fixed" and given.get("p") is None:
        raise UserError("--aug fixed: needs the probability; add --p 0.2, say")
    for option, kind in (("p", "fixed"), ("target", "ada")):
        if given.get(option) is not None and aug != kind:
            raise UserError(f"--{option}: goes with --aug {kind}, found --aug {aug}")
    c_dim = {"none": 0, "class": data.num_classes, "class+msp": data.num_classes + data.u_size}[condition]
    guided = condition == "class+msp"
    terms = condition_terms(given, guided, data.kind, data.u_size)
    networks = (
        _points_networks(preset, data, c_dim, condition, given)
        if data.kind == "points"
        else _image_networks(preset, data, c_dim, condition, terms["sharpness"], batch_gpu, given, device, bf16_cpu)
    )
    return TrainConfig(
        data=str(given["data"]),
        condition=condition,
        seed=pick("seed", 0),
        kimg=pick("kimg", preset.kimg),
        batch=batch,
        batch_gpu=batch_gpu,
        **networks,
        lrate=pick("lrate", preset.lrate),
        gamma=pick("gamma", preset.gamma),
        pl_weight=preset.pl_weight,
        style_mixing=preset.mix,
        ema_kimg=preset.ema,
        ema_rampup=preset.ramp,
        aug=aug,
        aug_p=pick("p", 0.0),
        ada_target=pick("target", 0.6),
        ada_kimg=preset.ada_kimg,
        noise_start=preset.noise,
        augpipe=pick("augpipe", "bgc"),
        **terms,
        mirror=pick("mirror", False),
        subset=given.get("subset"),
        snap=pick("snap", 10),
        tick_kimg=pick("tick", 100.0 if data.kind == "points" else 10.0 if name == "tiny" else 4.0),
        metrics=pick("metrics", "condition" if guided else "none"),
        cfg=name,
        given={k: v for k, v in given.items() if v is not None},
    )


def _condition(given: dict[str, Any], data: DataInfo) -> str:
    wanted = given.get("cond_msp")
    if wanted is None:
        wanted = data.annotated and given.get("cond") is None
    if wanted:
        if given.get("cond") is False:
            raise UserError("--cond=0: asks for no condition, --cond-msp=1 for class and MSP; leave one of them out")
        if not data.annotated:
            raise UserError(f"{given['data']}: has no MSP; annotate it or give --classifier, or leave --cond-msp out")
        return "class+msp"
    if given.get("cond"):
        if not data.num_classes:
            raise UserError(f"{given['data']}: --cond=1 needs labels in dataset.json, found none")
        return "class"
    return "none"


def _image_networks(
    preset: ResolvedPreset,
    data: DataInfo,
    c_dim: int,
    condition: str,
    sharpness: bool,
    batch_gpu: int,
    given: dict[str, Any],
    device: str,
    bf16_cpu: bool,
) -> dict[str, Any]:
    half_res, half_dtype = _precision(preset, given, device, bf16_cpu)
    channels = {
        "channel_base": preset.channel_base,
        "channel_max": preset.channel_max,
        "num_fp16_res": half_res,
        "conv_clamp": preset.conv_clamp if half_res and half_dtype == "float16" else None,  # only float16 overflows
        "half_dtype": half_dtype,
    }
    embedding = _embedding(given, data, condition)
    of_D = {**embedding, "u_dim": data.u_size + 1} if sharpness else embedding
    size = {"c_dim": c_dim, "img_resolution": data.img_resolution, "img_channels": data.img_channels}
    dim = preset.z_dim if given.get("z_dim") is None else given["z_dim"]
    mbstd = min(preset.mbstd, batch_gpu)
    if batch_gpu % mbstd:
        raise UserError(
            f"--batch: each process's share {batch_gpu} must be a multiple of the group of {mbstd}; choose another"
        )
    return {
        "G_name": "Generator",
        "G_kwargs": {
            **size,
            "z_dim": dim,
            "w_dim": dim,
            "mapping_kwargs": {"num_layers": preset.map, "lr_multiplier": preset.map_lr, **embedding},
            "synthesis_kwargs": channels,
        },
        "D_name": "Discriminator",
        "D_kwargs": {
            **size,
            "c_dim": c_dim + sharpness,
            "architecture": preset.d_arch,
            **channels,
            "block_kwargs": {"freeze_layers": given.get("freezed") or 0},
            "mapping_kwargs": {"num_layers": preset.d_map, "lr_multiplier": preset.d_map_lr, **of_D},
            "epilogue_kwargs": {"mbstd_group_size": mbstd},
        },
    }


def _points_networks(
    preset: ResolvedPreset, data: DataInfo, c_dim: int, condition: str, given: dict[str, Any]
) -> dict[str, Any]:
    embedding = _embedding(given, data, condition)
    dim = preset.z_dim if given.get("z_dim") is None else given["z_dim"]
    return {
        "G_name": "PointGenerator",
        "G_kwargs": {"z_dim": dim, "c_dim": c_dim, "mapping_kwargs": embedding},
        "D_name": "PointDiscriminator",
        "D_kwargs": {"c_dim": c_dim, "mapping_kwargs": embedding},
    }


def _embedding(given: dict[str, Any], data: DataInfo, condition: str) -> dict[str, Any]:
    """Arguments of both mapping networks: how the label enters; without an uncertainty only the linear way is left."""
    wanted = given.get("embedding")
    if condition != "class+msp":
        if wanted not in (None, "linear"):
            raise UserError(f"--embedding {wanted}: needs the MSP; add --cond-msp=1 or leave it out")
        return {"embedding": "linear"}
    length = {"u_dim": data.u_size} if data.u_size > 1 else {}
    return {"embedding": wanted or "split", **length}


def _precision(preset: ResolvedPreset, given: dict[str, Any], device: str, bf16_cpu: bool) -> tuple[int, str]:
    """Number of resolutions in half precision and their type: float16 on CUDA, bfloat16 on CPUs that have it."""
    wanted = "fp32" if given.get("fp32") else (given.get("precision") or "auto")
    if wanted == "auto":
        wanted = "fp16" if device == "cuda" else "bf16" if bf16_cpu else "fp32"
    if wanted == "fp32":
        return 0, "float16"
    return preset.half_res, {"fp16": "float16", "bf16": "bfloat16"}[wanted]
