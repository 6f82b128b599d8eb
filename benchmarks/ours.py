"""The trainer of this package on random data, as the benchmarks time it; the reference's stands in reference.py."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stylegan2_msp.config import DataInfo, resolve
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.training.distributed import World
from stylegan2_msp.training.step import Trainer

CLASSES = 10
# Sizes by name; precision, ADA and path length are options.
CONFIGS: dict[str, dict[str, Any]] = {
    "small": {"res": 32, "channels": 1, "base": 2048, "max": 64, "batch": 32, "preset": "tiny"},
    "narrow": {"res": 32, "channels": 1, "base": 1024, "max": 32, "batch": 32, "preset": "tiny"},
    "tiny": {"res": 32, "channels": 1, "base": 1024, "max": 64, "batch": 32, "preset": "tiny"},
    "tiny64": {"res": 64, "channels": 3, "base": 1024, "max": 64, "batch": 32, "preset": "tiny"},
    "tiny128": {"res": 128, "channels": 3, "base": 1024, "max": 64, "batch": 32, "preset": "tiny"},
    "tiny256": {"res": 256, "channels": 3, "base": 1024, "max": 64, "batch": 32, "preset": "tiny"},
    "auto32": {"res": 32, "channels": 3, "base": 16384, "max": 512, "batch": 64, "preset": "auto"},
    "auto256": {"res": 256, "channels": 3, "base": 16384, "max": 512, "batch": 16, "preset": "auto"},
    "paper256": {"res": 256, "channels": 3, "base": 16384, "max": 512, "batch": 64, "preset": "paper256"},
    "paper512": {"res": 512, "channels": 3, "base": 32768, "max": 512, "batch": 64, "preset": "paper512"},
}


class Samples:
    """Random images and labels in memory, in place of an archive."""

    reals, kind, mirror, lazy = TrainingSet.reals, "images", False, False
    stored, shown = TrainingSet.stored, TrainingSet.shown
    looked_at, _readable = TrainingSet.looked_at, TrainingSet._readable

    def __init__(self, resolution: int, channels: int, device: torch.device, count: int = 1024) -> None:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, [count, channels, resolution, resolution], dtype=np.uint8)
        classes = rng.integers(0, CLASSES, count)
        labels = np.concatenate([np.eye(CLASSES)[classes], rng.uniform(0.3, 1, [count, 1])], axis=1)
        self.data = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(labels.astype(np.float32)).to(device)

    def __len__(self) -> int:
        return len(self.data)


class OurTrainer:
    """The trainer of this package on random data."""

    def __init__(self, setting: dict[str, Any], samples: Samples, device: torch.device, precision: str) -> None:
        given = {"data": "random", "cfg": setting["cfg"], "batch": setting["batch"], "precision": precision}
        given |= {"cond_msp": True, "consistency": 0.0, "diversity": 0.0}  # the reference has neither
        given |= {"batch_gpu": setting["batch_gpu"], "gamma": setting["gamma"]}
        if setting["ada_p"]:
            given |= {"aug": "fixed", "p": setting["ada_p"]}
        else:
            given |= {"aug": "noaug"}
        info = DataInfo("images", setting["img_resolution"], setting["img_channels"], CLASSES, True)
        config = resolve(given, info, 1, device.type, bf16_cpu=precision == "bf16")
        channels = {"channel_base": setting["channel_base"], "channel_max": setting["channel_max"]}
        G_kwargs, D_kwargs = dict(config.G_kwargs), {**config.D_kwargs, **channels}
        G_kwargs["synthesis_kwargs"] = {**G_kwargs["synthesis_kwargs"], **channels}
        config = dataclasses.replace(
            config,
            G_kwargs=G_kwargs,
            D_kwargs=D_kwargs,
            pl_weight=2.0 if setting["path_length"] else 0.0,
            style_mixing=setting["style_mixing"],
        )
        self.trainer = Trainer(config, cast(TrainingSet, samples), CLASSES, None, World(device=device))
        self.config = config

    def phase(self, name: str) -> None:
        """Gradients and update of 'Gmain', 'Greg', 'Dmain' or 'Dreg'."""
        trainer = self.trainer
        run: dict[str, Callable[[], None]] = {
            "Gmain": trainer.generator_phase,
            "Greg": trainer.path_length_phase,
            "Dmain": trainer.discriminator_phase,
            "Dreg": trainer.r1_phase,
        }
        run[name]()

    def step(self) -> None:
        """One iteration."""
        self.trainer.step()


def make_setting(config: str, device: torch.device, ada: float, path_length: bool, batch: int | None) -> dict[str, Any]:
    """Sizes and data that both implementations are given."""
    size = CONFIGS[config]
    samples = Samples(size["res"], size["channels"], device)
    tiny = size["preset"] == "tiny"
    return {
        "cfg": size["preset"],
        "c_dim": CLASSES + 1,
        "img_resolution": size["res"],
        "img_channels": size["channels"],
        "channel_base": size["base"],
        "channel_max": size["max"],
        "batch": batch or size["batch"],
        "batch_gpu": batch or size["batch"],
        "mbstd": 4,
        "z_dim": 64 if tiny else 512,
        "map": 8 if size["preset"].startswith("paper") else 2,
        "d_map": 2 if tiny else 8,
        "style_mixing": 0.0 if tiny else 0.9,
        "gamma": 1.0,
        "lrate": 0.0025,
        "r1_interval": 16,
        "pl_interval": 4,
        "path_length": path_length,
        "ada_p": ada,
        "samples": samples,
        "images": samples.data,
        "labels": samples.labels,
    }
