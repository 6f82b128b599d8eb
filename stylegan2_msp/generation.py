"""Images (or points) from a trained generator at a chosen class, uncertainty and seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from stylegan2_msp.agreement import ClassAgreement
from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.device import pick_device
from stylegan2_msp.errors import UserError
from stylegan2_msp.search import Make, Search
from stylegan2_msp.seeds import SeedRng, latents, redrawn, redrawn_latents
from stylegan2_msp.snapshot import Snapshot, load_snapshot, newest_snapshot
from stylegan2_msp.uncertainty import MEASURES, Measure

RUNS = "training-runs"
NOISE_MODES = ("const", "random", "none")
MAX_SEED = 2**32 - 1
_SLACK = 1e-6  # 1 / K cannot be typed exactly
Level = float | tuple[float, ...]  # of a softmax condition also a whole vector


@dataclass(frozen=True)
class Request:
    """One item to generate: ``cls`` or ``u`` is None where the generator takes no such condition."""

    seed: int
    cls: int | None
    u: Level | None


@dataclass(frozen=True)
class Answer:
    """What the classifier that travelled with the snapshot says of a generated item.

    Attributes:
        prediction: most probable class.
        u: its level of uncertainty by the generator's measure; where that is of a class, of the class asked for.
    """

    prediction: int
    u: float


class ConditionalGenerator:
    """A trained generator with its classifier, ready to sample from.

    Attributes:
        snapshot: what was loaded.
        kind: 'images' or 'points'.
        num_classes: K, 0 where neither labels nor a classifier were known.
        class_names: K names.
        takes_class, takes_u: which conditions the generator has.
        measure: the measure of uncertainty that it is conditioned on.
        agreement: how often the classifier names reals of each level as their class, where that is known.
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
        self.takes_class, self.takes_u = c_dim > 0, info.get("condition", "class+msp") == "class+msp" and c_dim > 0
        self.measure = _measure(snapshot)
        self.agreement = _agreement(snapshot)
        wanted = (self.num_classes + self.takes_u * self.measure.size(self.num_classes)) * self.takes_class
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

    def check_u(self, u: Level) -> None:
        """Raises `UserError` unless ``u`` is a level (or softmax vector) that the measure can have with K classes."""
        measure, K = self.measure, self.num_classes
        if not self.takes_u:
            raise UserError(
                f"{self.snapshot.path}: was trained without uncertainty; leave --msp (--uncertainty) out or train with "
                "--cond-msp=1"
            )
        if isinstance(u, tuple):
            if measure.size(K) != len(u) or not (min(u) >= -_SLACK and abs(sum(u) - 1) < 1e-3):
                wanted = f"{K} probabilities that sum to 1" if measure.size(K) > 1 else "one number per item"
                raise UserError(f"uncertainty {list(u)[:8]}: must be {wanted}; correct it")
            return
        option = "--msp" if measure.name == "msp" else "--uncertainty"
        low, high = measure.low(K), measure.high(K)
        if measure.name == "msp" and 0 < u < low - _SLACK:
            least = np.ceil(1e4 / K) / 1e4
            raise UserError(
                f"{option} {u:g}: the largest of {K} class probabilities is never below 1/{K}; "
                f"ask for at least {least:g}"
            )
        if measure.name == "msp" and not 0 < u <= 1:  # also refuses NaN
            raise UserError(f"{option} {u:g}: must lie above 0 and not above 1; try 0.7")
        if not low - _SLACK <= u <= high + _SLACK:
            sure = f"{measure.sure(K):g} is certain"
            raise UserError(f"{option} {u:g}: {measure.title} lies in [{low:g}, {high:g}], {sure}; try 0.4")
        if measure.size(K) > 1 and self.classifier is None:
            raise UserError(f"{self.snapshot.path}: holds no classifier; give whole softmax vectors in place of levels")

    def sample(
        self,
        classes: Sequence[int] | int | None = None,
        msp: npt.ArrayLike | None = None,
        seeds: Sequence[int] | int = (0,),
        truncation_psi: float = 1.0,
        noise_mode: str = "const",
        batch: int = 32,
        *,
        uncertainty: npt.ArrayLike | None = None,
        within: float | None = None,
        draws: int | None = None,
    ) -> torch.Tensor:
        """One item per seed.

        Args:
            classes: class of each item, or one for all; by default seed modulo K.
            msp: MSP of each item in [1 / K, 1], or one for all; by default 1. For generators conditioned on MSP.
            seeds: z of an item depends on its seed alone, whatever else is asked.
            truncation_psi: 1 leaves w as it is, less draws it towards the mean of its class and uncertainty.
            noise_mode: 'const', 'random' (drawn from the item's seed) or 'none'.
            batch: items per pass.
            uncertainty: level of each item by the generator's own measure, or one for all; by default certain. For a
                softmax condition a level is the probability of the class, and vectors [N, K] or [1, K] ask for all.
            within: search each item's level until the classifier's answer lies within this of the level asked for, as
                far as G can make it (`search.search_levels`); by default G is given the level asked for.
            draws: with ``within``: draw up to so many latents for each item in place of searching its level
                (`search.draw_latents`). The first is the seed's own.

        Returns:
            float32 images [N, C, H, W] in [-1, 1], or points [N, 2] in the data's coordinates.

        Raises:
            UserError: a class, level or seed out of range, or ``msp`` for another measure.
            ValueError: lists of different lengths.

        Example:
            >>> load_generator(path).sample(classes=[3, 3], msp=0.7, seeds=[0, 1]).shape
        """
        wanted = self.requests(classes, msp, seeds, uncertainty)
        search = self.search(within, draws)
        parts = [items for _, items in self.batches(wanted, truncation_psi, noise_mode, batch, search)]
        return torch.cat(parts) if parts else torch.empty(0)

    def requests(
        self,
        classes: Sequence[int] | int | None,
        msp: npt.ArrayLike | None,
        seeds: Sequence[int] | int,
        uncertainty: npt.ArrayLike | None = None,
    ) -> list[Request]:
        """Checked requests, one per seed; the arguments are those of `sample`."""
        seed_list = [seeds] if isinstance(seeds, int) else [int(s) for s in seeds]
        n = len(seed_list)
        if classes is None:
            class_list: list[int | None] = [s % self.num_classes if self.takes_class else None for s in seed_list]
        else:
            class_list = [classes] * n if isinstance(classes, int) else [int(k) for k in classes]
        if msp is not None and uncertainty is not None:
            raise UserError("msp and uncertainty are two names of one thing; give one of them")
        if msp is not None:
            self.check_called_msp()
        u_list = self._levels(uncertainty if msp is None else msp, n)
        if not len(class_list) == len(u_list) == n:
            raise ValueError(f"{len(class_list)} classes and {len(u_list)} levels for {n} seeds; give one or {n}")
        wanted = [Request(s, k, u) for s, k, u in zip(seed_list, class_list, u_list, strict=True)]
        self.check(wanted)
        return wanted

    def check_called_msp(self) -> None:
        """Raises `UserError` if this generator is conditioned on another measure, so that --msp would mislead."""
        if self.takes_u and self.measure.name != "msp":
            measure, K = self.measure, self.num_classes
            raise UserError(
                f"--msp: {self.snapshot.path} is conditioned on {measure.title} ({measure.sure(K):g} certain, "
                f"{measure.unsure(K):g} uncertain); use --uncertainty 0.4"
            )

    def _levels(self, u: npt.ArrayLike | None, n: int) -> Sequence[Level | None]:
        if u is None:
            return [self.measure.sure(self.num_classes) if self.takes_u else None] * n
        values = np.asarray(u, dtype=np.float64)
        if values.ndim == 2:
            rows = [tuple(row) for row in values.tolist()]
            return rows * n if len(rows) == 1 else rows
        return [float(values)] * n if values.ndim == 0 else [float(v) for v in values]

    def check(self, wanted: Sequence[Request]) -> None:
        """Raises `UserError` for the first request that this generator cannot answer."""
        for cls in {r.cls for r in wanted if r.cls is not None}:
            self.check_class(cls)
        for u in {r.u for r in wanted if r.u is not None}:
            self.check_u(u)
        for request in wanted:
            if not 0 <= request.seed <= MAX_SEED:
                raise UserError(f"--seeds {request.seed}: must lie between 0 and {MAX_SEED}")

    def search(self, within: float | None, draws: int | None = None) -> Search | None:
        """How to come near the levels asked for; None without ``within``.

        Raises:
            UserError: there is no classifier to ask, or no single level; or draws without a distance.
        """
        if within is None:
            if draws is not None:
                raise UserError("draws: latents are drawn until the answer is near enough; say how near with within")
            return None
        if not self.takes_u or self.classifier is None:
            lacks = "holds no classifier" if self.takes_u else "was trained without uncertainty"
            raise UserError(f"--within: {self.snapshot.path} {lacks}, there is nothing to search by; leave it out")
        if self.measure.size(self.num_classes) > 1:
            raise UserError("--within: the condition is a softmax vector, not one number; leave it out")
        return Search(within, draws, self.agreement)

    @torch.no_grad()
    def batches(
        self,
        wanted: Sequence[Request],
        truncation_psi: float = 1.0,
        noise_mode: str = "const",
        batch: int = 32,
        search: Search | None = None,
    ) -> Iterator[tuple[Sequence[Request], torch.Tensor]]:
        """Yields up to ``batch`` requests at a time with what was generated for them, as `sample` returns it."""
        for begin in range(0, len(wanted), batch):
            part = wanted[begin : begin + batch]
            seeds = [r.seed for r in part]
            z, labels = latents(seeds, self.G.z_dim).to(self.device), self.labels(part)
            make = self._maker(z, seeds, truncation_psi, noise_mode)
            if search is None:
                yield part, make(torch.arange(len(part), device=self.device), labels, 0)
            else:
                assert self.classifier is not None
                yield part, search.run(make, labels, self.classifier, z).items

    def _maker(self, z: torch.Tensor, seeds: Sequence[int], truncation_psi: float, noise_mode: str) -> Make:
        def make(rows: torch.Tensor, labels: torch.Tensor, draw: int) -> torch.Tensor:
            own = [seeds[row] for row in rows.tolist()]
            ws = self.G.mapping(redrawn_latents(z[rows], own, draw), labels, truncation_psi=truncation_psi)
            rng = SeedRng(redrawn(own, draw), self.device)
            items: torch.Tensor = self.G.synthesis(ws, noise_mode=noise_mode, rng=rng).float()
            return items.clamp(-1, 1) if self.kind == "images" else items

        return make

    def labels(self, wanted: Sequence[Request]) -> torch.Tensor:
        """The condition c of each request, float32 [N, c_dim] with c_dim in {0, K, K + 1, 2 K}."""
        if not self.takes_class:
            return torch.zeros(len(wanted), 0, device=self.device)
        classes = torch.tensor([r.cls or 0 for r in wanted])
        if not self.takes_u:
            return make_labels(classes, 0.0, self.num_classes, self.device)[:, : self.num_classes]
        sure = self.measure.sure(self.num_classes)
        rows = []
        for cls, request in zip(classes, wanted, strict=True):
            u = sure if request.u is None else request.u
            given = isinstance(u, tuple)
            rows.append(torch.tensor([u]) if given else self.measure.rows(cls[None], torch.tensor([u])))
        return make_labels(classes.to(self.device), torch.cat(rows).to(self.device), self.num_classes)

    def answers(self, items: torch.Tensor, wanted: Sequence[Request]) -> list[Answer | None]:
        """What the classifier that travelled along says of each item and its request; None for each without one."""
        if self.classifier is None:
            return [None] * len(items)
        classes = None
        if all(r.cls is not None for r in wanted):
            classes = torch.tensor([r.cls or 0 for r in wanted], device=items.device)
        with torch.no_grad():
            pred, u = self.classifier.answer(items, classes)
        return [Answer(int(p), float(v)) for p, v in zip(pred, u, strict=True)]


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


def _agreement(snapshot: Snapshot) -> ClassAgreement | None:
    """What the snapshot says of the reals that it was trained on; None in those of earlier versions."""
    found = snapshot.info.get("agreement")
    try:
        return None if found is None else ClassAgreement.from_dict(found)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{snapshot.path}: its class agreement cannot be read ({error}); copy it again") from None


def _measure(snapshot: Snapshot) -> Measure:
    """The measure of the classifier that travelled along, else the one that the snapshot names."""
    name = str(snapshot.info.get("uncertainty") or "msp")
    if name not in MEASURES:
        raise UserError(f"{snapshot.path}: is conditioned on {name!r}, which this program does not know; update it")
    if snapshot.classifier is None:
        return MEASURES[name]()
    measure = snapshot.classifier.measure
    if measure.name != name:
        raise UserError(
            f"{snapshot.path}: is conditioned on {name}, its classifier gives {measure.name}; train it again"
        )
    return measure


def _listed(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(names[:limit])
    return f"{shown}, ..." if len(names) > limit else shown


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] as bytes: the inverse of x / 127.5 - 1, values outside clipped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
