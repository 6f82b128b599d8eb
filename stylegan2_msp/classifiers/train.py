"""Training the built-in classifiers: a validation part is held out, the same seed gives the same weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from stylegan2_msp.classifiers.frozen import FrozenClassifier, build_network
from stylegan2_msp.classifiers.spec import ClassifierSpec
from stylegan2_msp.errors import UserError
from stylegan2_msp.progress import track

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Recipe:
    """How one kind of network is trained."""

    batch: int
    samples: int  # shown in all, at least; small data sets are shown more often
    min_epochs: int
    max_epochs: int
    lr: float  # peak of a one-cycle schedule
    weight_decay: float


RECIPES = {
    "cnn": Recipe(batch=128, samples=100_000, min_epochs=2, max_epochs=20, lr=2e-3, weight_decay=1e-2),
    "residual": Recipe(batch=128, samples=100_000, min_epochs=2, max_epochs=20, lr=4e-3, weight_decay=1e-2),
    "strided": Recipe(batch=128, samples=100_000, min_epochs=2, max_epochs=20, lr=3e-3, weight_decay=1e-2),
    "mlp": Recipe(batch=256, samples=400_000, min_epochs=5, max_epochs=100, lr=5e-3, weight_decay=1e-2),
}


@torch.inference_mode(False)  # with gradients, whatever mode the caller is in
def train_classifier(
    data: torch.Tensor,
    classes: torch.Tensor,
    num_classes: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dropout: int = 0,
    arch: str | None = None,
    arch_args: Mapping[str, int] | None = None,
) -> FrozenClassifier:
    """Trains the built-in network on nine tenths of the data and measures it on both parts.

    Args:
        data: images uint8 [N, C, H, W], or points float32 [N, 2].
        classes: int64 [N], each in [0, num_classes).
        num_classes: K.
        seed: of the split, the initial weights, the order and dropout.
        dropout: percentage of hidden units dropped while training.
        arch: a key of `RECIPES`; by default 'cnn' for images and 'mlp' for points.
        arch_args: further arguments of that network.

    Returns:
        The frozen network; ``spec.report`` holds train_accuracy, val_accuracy, train_size, val_size, epochs and seed.

    Raises:
        UserError: there are too few samples to train on and to hold some out.
        ValueError: data of another type or shape, or not a class in [0, num_classes) for every sample.
    """
    if not (data.dtype == torch.uint8 and data.ndim == 4) and not (data.is_floating_point() and data.ndim == 2):
        raise ValueError(
            f"data must be images uint8 [N, C, H, W] or points float32 [N, 2], found {data.dtype} {list(data.shape)}"
        )
    if classes.shape != data.shape[:1] or bool(((classes < 0) | (classes >= num_classes)).any()):
        found = f"{list(classes.shape)} from {int(classes.min())} to {int(classes.max())}" if len(classes) else "none"
        raise ValueError(f"classes must be [{len(data)}] from 0 to {num_classes - 1}, found {found}")
    order = torch.Generator().manual_seed(seed)
    train, val = split_validation(classes, num_classes, order)
    spec = _builtin_spec(data[train], num_classes)
    args = {**(arch_args or {}), **({"dropout": dropout} if dropout else {})}
    spec = replace(spec, arch=arch or spec.arch, arch_args=args)
    recipe = RECIPES[spec.arch]
    epochs = min(max(math.ceil(recipe.samples / len(train)), recipe.min_epochs), recipe.max_epochs)
    scaler = FrozenClassifier(spec, nn.Identity()).to(device)  # its input map alone
    data, classes = data.to(device), classes.to(device)
    plain = torch.autocast(data.device.type, enabled=False)  # whatever the caller computes in
    with plain, torch.random.fork_rng(devices=[data.device] if data.device.type == "cuda" else []):
        torch.manual_seed(seed)  # for the initial weights and dropout
        net = build_network(spec).to(device)
        _fit(net, scaler, data, classes, train.to(device), recipe, epochs, order)

    frozen = FrozenClassifier(spec, net).to(device)
    report = {
        "train_accuracy": accuracy(frozen, data, classes, train),
        "val_accuracy": accuracy(frozen, data, classes, val),
        "train_size": len(train),
        "val_size": len(val),
        "epochs": epochs,
        "seed": seed,
    }
    return FrozenClassifier(replace(spec, report=report), net).to(device)


def split_validation(
    classes: torch.Tensor, num_classes: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (train, validation), both sorted: a tenth of every class is held out, at least one sample.

    The only sample of a class is not held out; a class may also have none at all.

    Raises:
        UserError: no class has two samples.
    """
    train, val = [], []
    for k in range(num_classes):
        index = (classes == k).nonzero().flatten().cpu()
        index = index[torch.randperm(len(index), generator=generator)]
        held_out = max(1, round(len(index) * VALIDATION_SHARE)) if len(index) > 1 else 0
        val.append(index[:held_out])
        train.append(index[held_out:])
    parts = torch.cat(train).sort().values, torch.cat(val).sort().values
    if not len(parts[1]):
        raise UserError("no class has 2 samples, which are needed to train and validate a classifier; bring more")
    return parts


@torch.no_grad()
def accuracy(
    classifier: FrozenClassifier, data: torch.Tensor, classes: torch.Tensor, index: torch.Tensor, batch: int = 512
) -> float:
    """Share of the samples at ``index`` whose most probable class is the true one, in [0, 1]."""
    right = 0
    for part in index.to(data.device).split(batch):
        right += int((classifier(to_float(data[part])).argmax(1) == classes[part]).sum())
    return right / len(index)


def to_float(data: torch.Tensor) -> torch.Tensor:
    """uint8 images to [-1, 1] as the generator makes them; points stay as they are."""
    return data.to(torch.float32) / 127.5 - 1 if data.dtype == torch.uint8 else data.to(torch.float32)


def _builtin_spec(data: torch.Tensor, num_classes: int) -> ClassifierSpec:
    """The network for this data; its normalisation is the training part's own mean and standard deviation."""
    if data.dtype == torch.uint8:
        channels, size = data.shape[1], data.shape[2]
        sample = data[:: max(1, len(data) // 10_000)].to(torch.float64) / 255
        mean, std = _moments(sample.transpose(0, 1).flatten(1))
        return ClassifierSpec("cnn", "images", num_classes, channels, size, channels, size, (0.0, 1.0), mean, std)
    mean, std = _moments(data.to(torch.float64).T)
    width = data.shape[1]
    return ClassifierSpec("mlp", "points", num_classes, 0, 0, width, 0, input_mean=mean, input_std=std)


def _moments(rows: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every row, rounded so that they read well in the file."""
    mean = tuple(round(v, 4) for v in rows.mean(1).tolist())
    std = tuple(max(round(v, 4), 1e-3) for v in rows.std(1).tolist())
    return mean, std


def _fit(
    net: nn.Module,
    scaler: FrozenClassifier,
    data: torch.Tensor,
    classes: torch.Tensor,
    train: torch.Tensor,
    recipe: Recipe,
    epochs: int,
    order: torch.Generator,
) -> None:
    """Cross entropy, AdamW with a one-cycle learning rate."""
    net.train()
    batches = math.ceil(len(train) / recipe.batch)
    decay = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=epochs * batches, pct_start=0.2)
    steps = _batches(train, recipe.batch, epochs, order)
    for part in track(steps, "training the classifier", epochs * batches, "steps"):
        loss = nn.functional.cross_entropy(net(scaler(to_float(data[part]))), classes[part])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def _batches(train: torch.Tensor, batch: int, epochs: int, order: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(epochs):
        yield from train[torch.randperm(len(train), generator=order).to(train.device)].split(batch)
