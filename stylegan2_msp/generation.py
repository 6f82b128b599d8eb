"""Images (or points) from a trained generator at a chosen class, MSP and seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.device import pick_device
from stylegan2_msp.errors import UserError
from stylegan2_msp.snapshot import Snapshot, load_snapshot, newest_snapshot
from torch_utils_ext.rng import BatchRng

RUNS = "training-runs"
NOISE_MODES = ("const", "random", "none")
MAX_SEED = 2**32 - 1
_SLACK = 1e-6  # 1 / K cannot be typed exactly


@dataclass(frozen=True)
class Request:
    """One item to generate: ``cls`` or ``msp`` is None where the generator takes no such condition."""

    seed: int
    cls: int | None
    msp: float | None


@dataclass(frozen=True)
class Answer:
    """What the classifier that travelled with the snapshot says of a generated item."""

    prediction: int
    msp: float


class ConditionalGenerator:
    """A trained generator with its classifier, ready to sample from.

    Attributes:
        snapshot: what was loaded.
        kind: 'images' or 'points'.
        num_classes: K, 0 where neither labels nor a classifier were known.
        class_names: K names.
        takes_class, takes_msp: which conditions the generator has.
    """

    def __init__(self, snapshot: Snapshot, device: torch.device | str = "cpu") -> None:
        self.snapshot = snapshot
        self.G = cast(Any, snapshot.G)
        self.classifier = snapshot.classifier
        self.device = torch.device(device)
        info = snapshot.info
        c_dim = int(self.G.c_dim)
        self.kind = str(info.get("kind") or "images")
        self.num_classes = int(info.get("num_classes") or 0)
        names = info.get("class_names")
        self.class_names = [str(n) for n in names] if names else [str(k) for k in range(self.num_classes)]
        self.takes_class, self.takes_msp = c_dim > 0, info.get("condition", "class+msp") == "class+msp" and c_dim > 0
        wanted = (self.num_classes + self.takes_msp) * self.takes_class
        if c_dim != wanted or len(self.class_names) != self.num_classes:
            raise UserError(
                f"{snapshot.path}: a condition of {c_dim} numbers does not fit {self.num_classes} classes "
                f"({len(self.class_names)} names); train or copy the snapshot again"
            )

    def check_class(self, cls: int) -> None:
        """Raises `UserError` unless ``cls`` is a class of this generator."""
        if not self.takes_class:
            raise UserError(f"{self.snapshot.path}: was trained without classes; leave --class out")
        if not 0 <= cls < self.num_classes:
            raise UserError(
                f"--class {cls}: this generator has classes 0 to {self.num_classes - 1} "
                f"({_listed(self.class_names)}); choose among them"
            )

    def check_msp(self, msp: float) -> None:
        """Raises `UserError` unless ``msp`` is a maximum softmax probability that K classes can have."""
        if not 0 < msp <= 1:  # also refuses NaN
            raise UserError(f"--msp {msp:g}: must lie above 0 and not above 1; try 0.7")
        if not self.takes_msp:
            raise UserError(
                f"{self.snapshot.path}: was trained without MSP; leave --msp out or train with --cond-msp=1"
            )
        if msp < 1 / self.num_classes - _SLACK:
            least = np.ceil(1e4 / self.num_classes) / 1e4
            raise UserError(
                f"--msp {msp:g}: the largest of {self.num_classes} class probabilities is never below "
                f"1/{self.num_classes}; ask for at least {least:g}"
            )

    def sample(
        self,
        classes: Sequence[int] | int | None = None,
        msp: Sequence[float] | float | None = None,
        seeds: Sequence[int] | int = (0,),
        truncation_psi: float = 1.0,
        noise_mode: str = "const",
        batch: int = 32,
    ) -> torch.Tensor:
        """One item per seed.

        Args:
            classes: class of each item, or one for all; by default seed modulo K.
            msp: MSP of each item in [1 / K, 1], or one for all; by default 1.
            seeds: z of an item depends on its seed alone, whatever else is asked.
            truncation_psi: 1 leaves w as it is, less draws it towards the mean of its class and MSP.
            noise_mode: 'const', 'random' (drawn from the item's seed) or 'none'.
            batch: items per pass.

        Returns:
            float32 images [N, C, H, W] in [-1, 1], or points [N, 2] in the data's coordinates.

        Raises:
            UserError: a class, MSP or seed out of range.
            ValueError: lists of different lengths.

        Example:
            >>> load_generator(path).sample(classes=[3, 3], msp=0.7, seeds=[0, 1]).shape
        """
        wanted = self.requests(classes, msp, seeds)
        parts = [items for _, items in self.batches(wanted, truncation_psi, noise_mode, batch)]
        return torch.cat(parts) if parts else torch.empty(0)

    def requests(
        self, classes: Sequence[int] | int | None, msp: Sequence[float] | float | None, seeds: Sequence[int] | int
    ) -> list[Request]:
        """Checked requests, one per seed; the arguments are those of `sample`."""
        seed_list = [seeds] if isinstance(seeds, int) else [int(s) for s in seeds]
        n = len(seed_list)
        if classes is None:
            class_list: list[int | None] = [s % self.num_classes if self.takes_class else None for s in seed_list]
        else:
            class_list = [classes] * n if isinstance(classes, int) else [int(k) for k in classes]
        if msp is None:
            msp_list: list[float | None] = [1.0 if self.takes_msp else None] * n
        else:
            msp_list = [float(msp)] * n if isinstance(msp, (int, float)) else [float(u) for u in msp]
        if not len(class_list) == len(msp_list) == n:
            raise ValueError(f"{len(class_list)} classes and {len(msp_list)} MSP values for {n} seeds; give one or {n}")
        wanted = [Request(s, k, u) for s, k, u in zip(seed_list, class_list, msp_list, strict=True)]
        self.check(wanted)
        return wanted

    def check(self, wanted: Sequence[Request]) -> None:
        """Raises `UserError` for the first request that this generator cannot answer."""
        for cls in {r.cls for r in wanted if r.cls is not None}:
            self.check_class(cls)
        for msp in {r.msp for r in wanted if r.msp is not None}:
            self.check_msp(msp)
        for request in wanted:
            if not 0 <= request.seed <= MAX_SEED:
                raise UserError(f"--seeds {request.seed}: must lie between 0 and {MAX_SEED}")

    @torch.no_grad()
    def batches(
        self, wanted: Sequence[Request], truncation_psi: float = 1.0, noise_mode: str = "const", batch: int = 32
    ) -> Iterator[tuple[Sequence[Request], torch.Tensor]]:
        """Yields up to ``batch`` requests at a time with what was generated for them, as `sample` returns it."""
        for begin in range(0, len(wanted), batch):
            part = wanted[begin : begin + batch]
            seeds = [r.seed for r in part]
            z = latents(seeds, self.G.z_dim).to(self.device)
            ws = self.G.mapping(z, self.labels(part), truncation_psi=truncation_psi)
            items = self.G.synthesis(ws, noise_mode=noise_mode, rng=SeedRng(seeds, self.device))
            yield part, items.float().clamp(-1, 1) if self.kind == "images" else items.float()

    def labels(self, wanted: Sequence[Request]) -> torch.Tensor:
        """The condition c of each request, float32 [N, c_dim] with c_dim in {0, K, K + 1}."""
        if not self.takes_class:
            return torch.zeros(len(wanted), 0, device=self.device)
        classes = [r.cls or 0 for r in wanted]
        msp = [1.0 if r.msp is None else r.msp for r in wanted]
        return make_labels(classes, msp, self.num_classes, self.device)[:, : self.G.c_dim]

    def answers(self, items: torch.Tensor) -> list[Answer | None]:
        """Prediction and MSP of each item by the classifier that travelled along, None for each without one."""
        if self.classifier is None:
            return [None] * len(items)
        with torch.no_grad():
            pred, msp = self.classifier.predict(items)
        return [Answer(int(p), float(u)) for p, u in zip(pred, msp, strict=True)]


def load_generator(path: str | Path | None = None, device: torch.device | str = "auto") -> ConditionalGenerator:
    """Loads a trained generator.

    Args:
        path: a snapshot, or a folder in which the newest one is taken; by default ``training-runs``.
        device: 'cpu', 'cuda', ... or 'auto' (a GPU if there is one).

    Raises:
        UserError: there is no snapshot, or it cannot be read.
    """
    target = pick_device(device)
    return ConditionalGenerator(load_snapshot(find_snapshot(path), target), target)


def find_snapshot(path: str | Path | None) -> Path:
    """The snapshot that a file, a folder or nothing (then ``training-runs``) stands for; raises `UserError`."""
    where = Path(RUNS if path is None else path)
    return newest_snapshot(where) if path is None or where.is_dir() else where


def latents(seeds: Sequence[int], z_dim: int) -> torch.Tensor:
    """z of each seed from a generator of its own, float32 [N, z_dim]: the family's RandomState(seed)."""
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return torch.from_numpy(np.stack(rows)).to(torch.float32)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] as bytes: the inverse of x / 127.5 - 1, values outside clipped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class SeedRng(BatchRng):
    """Randomness for noise_mode 'random' in which every item has a generator of its own, seeded by its seed."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        super().__init__(0, device)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def randn(self, n: int, *shape: int) -> torch.Tensor:
        """Standard normal numbers [n, *shape], row i from seed i."""
        if n != len(self.generators):
            raise ValueError(f"{n} rows asked of {len(self.generators)} seeds")
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators]).to(self.device)


def _listed(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(names[:limit])
    return f"{shown}, ..." if len(names) > limit else shown
