"""Trainers for tests that look at phases and steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.config import DataInfo, resolve
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.training.distributed import World
from stylegan2_msp.training.plan import classifier_of
from stylegan2_msp.training.step import Trainer

PHASES = {"G", "path length", "D", "R1"}


def make_trainer(
    path: Path, device: str, classifier: FrozenClassifier | None = None, world: World | None = None, **given: Any
) -> Trainer:
    """All that a run has by default; of images with path length regularisation and style mixing on top."""
    archive, place = open_archive(path), torch.device(device)
    world = world or World(device=place)
    found = classifier or classifier_of(archive)
    assert found is not None
    found = found.to(place)
    images = {"cfg": "tiny"} if archive.kind == "images" else {}
    given = {"data": str(path), "batch": 32, "consistency_kimg": 0.2, **images, **given}
    size = found.measure.size(archive.num_classes)
    info = DataInfo(archive.kind, archive.img_resolution, archive.img_channels, archive.num_classes, True, size)
    config = resolve({k: v for k, v in given.items() if v is not None}, info, world.size, place.type, False)
    config = dataclasses.replace(config, r1_interval=2, pl_interval=2, ada_kimg=1.0)
    if archive.kind == "images":
        config = dataclasses.replace(config, pl_weight=2.0, style_mixing=0.9)
    return Trainer(config, TrainingSet(archive, "class+msp", place), archive.num_classes, found, world)


def statistics(trainer: Trainer, steps: int) -> list[dict[str, float]]:
    """What each step reports."""
    found = []
    for _ in range(steps):
        trainer.step()
        found.append(trainer.pop_statistics())
    return found


def plain_descent(groups: Any, lr: float, **_: Any) -> torch.optim.Optimizer:
    """In place of Adam, which makes much of rounding: it divides the smallest gradients by themselves."""
    return torch.optim.SGD(groups, lr=2 * lr)
