"""Shows items, generated or real, to the classifier and to the judges, and keeps what they say but not the items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.classifiers.train import to_float
from stylegan2_msp.conditioning import level, split_labels
from stylegan2_msp.metrics.asking import Asked
from stylegan2_msp.progress import track
from stylegan2_msp.search import Make, Search
from stylegan2_msp.seeds import SeedRng, redrawn, redrawn_latents

Array = npt.NDArray[Any]
Features = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Items:
    """What was asked of some items and what is said of them, one row each.

    Attributes:
        classes: class asked for (of real items: their own), int64 [N].
        asked: u, float64 [N] (of real items: what the archive records).
        predicted: class by the classifier, int64 [N].
        answered: v, the uncertainty by the classifier, float64 [N].
        second_predicted, second_answered: the same by the second classifier, where there is one.
        kinds: kind of corruption by the probe, int64 [N], where there is one.
        features: float32 [N, D], where there are any; of points their coordinates.
        made: items that a search made for each, int64 [N]; accepted: whether it came near enough, bool [N].
        group: so many neighbours share a latent.
    """

    classes: Array
    asked: Array
    predicted: Array
    answered: Array
    second_predicted: Array | None = None
    second_answered: Array | None = None
    kinds: Array | None = None
    features: Array | None = None
    made: Array | None = None
    accepted: Array | None = None
    group: int = 1

    def __len__(self) -> int:
        return len(self.classes)

    def cost(self) -> float:
        """Items made per accepted one, those made in vain included; NaN when none was accepted."""
        assert self.made is not None
        assert self.accepted is not None
        accepted = int(self.accepted.sum())
        return float(self.made.sum()) / accepted if accepted else float("nan")

    def take(self, rows: Array) -> Items:
        """The items at these positions."""
        columns: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "group"}
        columns = {name: None if column is None else column[rows] for name, column in columns.items()}
        return Items(**columns)


@dataclass(frozen=True)
class Observers:
    """Everybody who looks at items; only the classifier that the condition is about must be there.

    Attributes:
        classifier: gives ``predicted`` and ``answered``.
        second: another classifier; its penultimate layer gives ``features`` unless these are given.
        probe: a classifier of corruption kinds.
        features: maps items as the classifiers see them to [N, D].
        unit: the second classifier's features are divided by it.
    """

    classifier: FrozenClassifier
    second: FrozenClassifier | None = None
    probe: FrozenClassifier | None = None
    features: Features | None = None
    unit: float = 1.0

    def look(self, x: torch.Tensor, classes: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is said of items x of these classes, by names of `Items`; x is images in [-1, 1] or points."""
        said = dict(zip(("predicted", "answered"), self.classifier.answer(x, classes), strict=True))
        if x.ndim == 2:
            said["features"] = x
        if self.second is not None:
            said["second_predicted"], said["second_answered"], inner = _answer_and_features(self.second, x, classes)
            if inner is not None and x.ndim == 4:
                said["features"] = inner / self.unit
        if self.probe is not None:
            said["kinds"] = self.probe(x).argmax(dim=1)
        if self.features is not None:
            said["features"] = self.features(x)
        return {name: value.cpu() for name, value in said.items()}


@torch.no_grad()
def observe_fakes(
    G: Any,
    observers: Observers,
    asked: Asked,
    batch: int = 128,
    description: str = "",
    search: Search | None = None,
    truncation_psi: float = 1.0,
) -> Items:
    """Generates what is asked for, batch by batch, and shows it to the observers; images rounded to bytes, as in files.

    Args:
        G: generator with mapping and synthesis. Its noise is drawn anew for every latent, as in training and in the
            family's metrics; items that share a latent share their noise.
        observers: who looks.
        asked: labels and latents.
        batch: items per pass.
        description: of a progress bar; none is shown without it.
        search: how to come near the levels asked for.
        truncation_psi: 1 leaves w as it is, less draws it towards the mean of its label.
    """
    device = next(G.parameters()).device
    K = observers.classifier.num_classes
    classes = split_labels(asked.labels, K)[0].argmax(dim=1)
    parts = []
    starts: Iterable[int] = range(0, len(asked), batch)
    for begin in track(starts, description, len(asked), "items", step=batch) if description else starts:
        rows = slice(begin, begin + batch)
        c = asked.labels[rows, : G.c_dim].to(device)  # a class-only generator takes the one-hot alone
        seeds = [asked.seed + row // asked.group for row in range(begin, begin + len(c))]
        make = _maker(G, asked.z[rows].to(device), seeds, truncation_psi)
        every = torch.arange(len(c), device=device)
        searched = {}
        if search is None:
            x = make(every, c, 0)
        else:
            found = search.run(make, c, observers.classifier, asked.z[rows].to(device))
            x, searched = found.items, {"made": found.made.cpu(), "accepted": found.accepted.cpu()}
        if x.ndim == 4:
            x = ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        parts.append(observers.look(x, classes[rows].to(device)) | searched)
    return replace(_joined(parts, classes.numpy(), level(asked.labels, K).double().numpy()), group=asked.group)


@torch.no_grad()
def observe_reals(
    data: Array, classes: Array, u: Array, observers: Observers, batch: int = 256, description: str = ""
) -> Items:
    """Shows real items to the observers.

    Args:
        data: uint8 images [N, C, H, W] or float32 points [N, 2].
        classes: int64 [N].
        u: recorded uncertainty, [N].
    """
    device = next(observers.classifier.buffers()).device
    parts = []
    starts: Iterable[int] = range(0, len(data), batch)
    for begin in track(starts, description, len(data), "items", step=batch) if description else starts:
        rows = slice(begin, begin + batch)
        x = to_float(torch.from_numpy(data[rows]).to(device))
        parts.append(observers.look(x, torch.from_numpy(classes[rows]).to(device)))
    return _joined(parts, classes, np.asarray(u, np.float64))


def _maker(G: Any, z: torch.Tensor, seeds: Sequence[int], psi: float) -> Make:
    def make(at: torch.Tensor, labels: torch.Tensor, draw: int) -> torch.Tensor:
        own = [seeds[row] for row in at.tolist()]
        ws = G.mapping(redrawn_latents(z[at], own, draw), labels, truncation_psi=psi, skip_w_avg_update=True)
        made: torch.Tensor = G.synthesis(ws, noise_mode="random", rng=SeedRng(redrawn(own, draw), z.device))
        return made.float()

    return make


def _joined(parts: list[dict[str, torch.Tensor]], classes: Array, asked: Array) -> Items:
    columns: dict[str, Any] = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    for name in ("answered", "second_answered"):
        if name in columns:
            columns[name] = columns[name].astype(np.float64)
    return Items(classes, asked, **columns)


def _answer_and_features(
    second: FrozenClassifier, x: torch.Tensor, classes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What the second classifier answers and what enters its last layer, in one pass; no features of points."""
    head = getattr(second.net, "head", None)
    if not isinstance(head, torch.nn.Linear):
        return *second.answer(x, classes), None
    seen: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        return *second.answer(x, classes), seen[0].flatten(1)
    finally:
        handle.remove()
