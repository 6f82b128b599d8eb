"""The preset table of --cfg, and the values that depend on resolution and batch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One row of the preset table; None means 'derived from resolution and batch' (see `resolve_preset`)."""

    kimg: int
    batch: int | None
    mbstd: int | None  # minibatch standard deviation group
    channel_base: int | None
    channel_max: int
    lrate: float | None
    gamma: float | None
    ema: float | None  # half-life in kimg
    ramp: float | None
    map: int  # mapping layers
    conv_clamp: int | None = 256
    half_res: int = 4  # resolutions in half precision
    pl_weight: float = 2.0
    mix: float = 0.9
    d_arch: str = "resnet"
    map_lr: float = 0.01  # multiplier of the learning rate of G's mapping layers
    d_map: int = 8  # layers of D's mapping of the condition, and the multiplier of their learning rate
    d_map_lr: float = 0.01
    z_dim: int = 512
    ada_kimg: float = 500.0
    noise: float = 0.0  # strength of the last layer's noise at the start; see `training.initial`


# The rows up to `cifar` carry the published values of StyleGAN2-ADA (Karras et al. 2020b, appendix C).
# fmt: off
PRESETS = {
    #                    kimg    batch mbstd base   max  lrate   gamma  ema   ramp  map
    "auto":      Preset( 25000,  None, None, None,  512, None,   None,  None, 0.05, 2),
    "stylegan2": Preset( 25000,  32,   4,    32768, 512, 0.002,  10,    10,   None, 8),
    "paper256":  Preset( 25000,  64,   8,    16384, 512, 0.0025, 1,     20,   None, 8),
    "paper512":  Preset( 25000,  64,   8,    32768, 512, 0.0025, 0.5,   20,   None, 8),
    "paper1024": Preset( 25000,  32,   4,    32768, 512, 0.002,  2,     10,   None, 8),
    "cifar":     Preset( 100000, 64,   32,   32768, 512, 0.0025, 0.01,  500,  0.05, 2,
                         pl_weight=0, mix=0, d_arch="orig"),
    "tiny":      Preset( 600,    32,   4,    1024,  64,  0.0025, 0.3,   5,    0.05, 2,
                         half_res=8, pl_weight=0, mix=0, map_lr=1, d_map=2, d_map_lr=1, z_dim=64, ada_kimg=100,
                         noise=0.1),
    "points":    Preset( 3000,   512,  1,    None,  0,   0.003,  0.05,  200,  0.05, 0,
                         conv_clamp=None, half_res=0, pl_weight=0, mix=0, z_dim=8),
}
# fmt: on


@dataclass(frozen=True)
class ResolvedPreset(Preset):
    """A row in which nothing is left open."""

    batch: int
    mbstd: int
    channel_base: int
    lrate: float
    gamma: float
    ema: float


def resolve_preset(preset: Preset, res: int, processes: int) -> ResolvedPreset:
    """Fills what the row leaves open, by the family's heuristics (Karras et al. 2020b, appendix C).

    Args:
        preset: a row of the table.
        res: image resolution; 0 for points.
        processes: processes that share the batch.
    """
    batch = preset.batch or max(min(processes * min(4096 // max(res, 1), 32), 64), processes)
    row: dict[str, Any] = {item.name: getattr(preset, item.name) for item in fields(preset)}
    derived: dict[str, Any] = {
        "batch": batch,
        "mbstd": min(batch // processes, 4),
        "channel_base": 32768 if res >= 512 else 16384,
        "lrate": 0.002 if res >= 1024 else 0.0025,
        "gamma": 0.0002 * res**2 / batch,
        "ema": batch * 10 / 32,
    }
    filled: dict[str, Any] = {k: derived.get(k) if v is None else v for k, v in row.items()}
    return ResolvedPreset(**filled)
