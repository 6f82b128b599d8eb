"""Images (or points) from a trained generator at a chosen class, uncertainty and seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.device import pick_device
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import refuse_address
from stylegan2_msp.request import Answer, Conditions, Level, Request
from stylegan2_msp.search import Make, Search
from stylegan2_msp.seeds import SeedRng, latents, redrawn, redrawn_latents
from stylegan2_msp.snapshot import Snapshot, load_snapshot, newest_snapshot

RUNS = "training-runs"
Within = float | Literal["auto"] | None
_SEARCHED, _DRAWN = 0.03, 0.05  # what 'auto' is when levels are searched, and when latents are drawn


@dataclass(frozen=True)
class Batch:
    """Some requests and what was generated for them.

    Attributes:
        requests: N of them.
        items: as `ConditionalGenerator.sample` returns them, [N, ...].
        reached: whether each is what was searched for, bool [N]; None without a search.
        given: the level that G was given for each, [N]; None where that is the one asked for.
    """

    requests: Sequence[Request]
    items: torch.Tensor
    reached: torch.Tensor | None = None
    given: torch.Tensor | None = None


class ConditionalGenerator(Conditions):
    """A trained generator with its classifier, ready to sample from.

    Attributes:
        G: the network.
        device: where it samples.
    """

    def __init__(self, snapshot: Snapshot, device: torch.device | str = "cpu") -> None:
        super().__init__(snapshot)
        self.G = cast(Any, snapshot.G)
        self.device = torch.device(device)

    def sample(
        self,
        classes: Iterable[int | str] | int | str | None = None,
        msp: npt.ArrayLike | None = None,
        seeds: Iterable[int] | int = (0,),
        truncation_psi: float = 1.0,
        noise_mode: str = "const",
        batch: int = 32,
        *,
        uncertainty: npt.ArrayLike | None = None,
        within: Within = "auto",
        draws: int | None = None,
        steady: bool = False,
    ) -> torch.Tensor:
        """Items of the classes, levels and seeds asked for; of each of these one may stand for all items.

        Args:
            classes: class of each item, its number or name, or one for all; by default seed modulo K.
            msp: MSP of each item in [1 / K, 1], or one for all; by default 1. For generators conditioned on MSP.
            seeds: seed of each item, or one for all: z depends on it alone, whatever else is asked.
            truncation_psi: finite; 1 leaves w as it is, less draws it towards the mean of its class and uncertainty.
            noise_mode: 'const', 'random' (drawn from the item's seed) or 'none'.
            batch: items per pass, at least 1.
            uncertainty: level of each item by the generator's own measure, or one for all; by default certain. For a
                softmax condition a level is the probability of the class, and vectors [N, K] or [1, K] ask for all.
            within: search each item's level until the classifier's answer lies within this of the level asked for, as
                far as G can make it (`search.search_levels`). The answer is that to the image as a file holds it,
                rounded to bytes; `batches` says for which items it was reached. 'auto' is 0.03 (0.05 with ``draws``)
                where there is a classifier to ask and one number to ask for; None gives G the level asked for.
            draws: draw up to so many latents for each item in place of searching its level (`search.draw_latents`).
                The first is the seed's own.
            steady: with ``draws``: the level must hold under small shifts of the image, too.

        Returns:
            float32 images [N, C, H, W] in [-1, 1], or points [N, 2] in the data's coordinates.

        Raises:
            UserError: a class, level or seed out of range, or ``msp`` for another measure.
            ValueError: lists of different lengths, ``batch`` or ``truncation_psi`` out of range.
            TypeError: a seed or class number that is not whole.

        Example:
            >>> load_generator(path).sample(classes=3, msp=[1, 0.7, 0.4], seeds=0)  # one image at falling MSP
        """
        wanted = self.requests(classes, msp, seeds, uncertainty)
        search = self.search(within, draws, steady)
        parts = [made.items for made in self.batches(wanted, truncation_psi, noise_mode, batch, search)]
        size = (2,) if self.kind == "points" else (self.G.img_channels, *[self.G.img_resolution] * 2)
        return torch.cat(parts) if parts else torch.empty(0, *size, dtype=torch.float32, device=self.device)

    def requests(
        self,
        classes: Iterable[int | str] | int | str | None,
        msp: npt.ArrayLike | None,
        seeds: Iterable[int] | int,
        uncertainty: npt.ArrayLike | None = None,
    ) -> list[Request]:
        """Checked requests, as many as the longest list has; the arguments are those of `sample`."""
        if msp is not None and uncertainty is not None:
            raise UserError("msp and uncertainty are two names of one thing; give one of them")
        if msp is not None:
            self.check_called_msp()
        seed_list = [index(s) for s in _each(seeds)]
        class_list: list[int | None] | None = None
        if classes is not None:
            class_list = [self.class_number(k) for k in _each(classes)]
        u_list = self._levels(uncertainty if msp is None else msp)
        lengths = {
            "classes": 1 if class_list is None else len(class_list),
            "levels": len(u_list),
            "seeds": len(seed_list),
        }
        if len(uneven := set(lengths.values()) - {1}) > 1:
            found = ", ".join(f"{number} {name}" for name, number in lengths.items())
            raise ValueError(f"{found} do not go together; give one of each for every item, or one for all")
        n = max(uneven, default=1)
        if n > 1 and len(seed_list) == 1 and self._like_a_vector(u_list):
            raise UserError(
                f"uncertainty: a softmax vector of {n} classes is given as [vector], for {n} levels give {n} seeds"
            )
        if class_list is None:
            class_list = [s % self.num_classes if self.takes_class else None for s in seed_list]
        everything = (_for_all(values, n) for values in (seed_list, class_list, u_list))
        wanted = [Request(s, k, u) for s, k, u in zip(*everything, strict=True)]
        self.check(wanted)
        return wanted

    def _levels(self, u: npt.ArrayLike | None) -> Sequence[Level | None]:
        if u is None:
            return [self.measure.sure(self.num_classes) if self.takes_u else None]
        values = np.atleast_1d(np.asarray(u, dtype=np.float64))
        if values.ndim > 2:
            raise ValueError(
                f"levels must be numbers [N] or softmax vectors [N, K], found an array of {values.ndim} axes"
            )
        return [tuple(row) if isinstance(row, list) else row for row in values.tolist()]

    def _like_a_vector(self, levels: Sequence[Level | None]) -> bool:
        """Whether the levels of a softmax condition may be meant as one vector."""
        K, numbers = self.num_classes, [u for u in levels if isinstance(u, float)]
        return len(numbers) == K == self.measure.size(K) and abs(sum(numbers) - 1) < 1e-3

    def search(self, within: Within, draws: int | None = None, steady: bool = False) -> Search | None:
        """How to come near the levels asked for, by the arguments of `sample`; None where G is given them.

        Raises:
            UserError: there is no classifier to ask, or no single level; draws without a distance; ``steady`` without
                draws or for points; a number out of range.
        """
        if steady and draws is None:
            raise UserError("--steady: says which drawn images count; add --draws 40")
        if steady and self.kind == "points":
            raise UserError("--steady: 2-D points cannot be shifted; leave it out")
        if draws is not None and draws < 1:
            raise UserError(f"--draws: must be at least 1, found {draws}")
        if within is None:
            if draws is not None:
                raise UserError(f"--draws {draws}: latents are drawn until an answer is near; leave '--within off' out")
            return None
        option = "--within" if draws is None or within != "auto" else "--draws"
        if within != "auto" and not 0 <= within < math.inf:
            raise UserError(f"--within: must be a finite number of at least 0, found {within}")
        if lacks := self._nothing_to_search_by():
            if within == "auto" and draws is None:
                return None
            raise UserError(f"{option}: {lacks}; leave it out")
        distance = within if within != "auto" else _SEARCHED if draws is None else _DRAWN
        return Search(distance, draws, self.agreement, steady)

    def _nothing_to_search_by(self) -> str | None:
        if not self.takes_u or self.classifier is None:
            lacks = "holds no classifier" if self.takes_u else "was trained without uncertainty"
            return f"{self.snapshot.path} {lacks}, there is nothing to search by"
        if self.measure.size(self.num_classes) > 1:
            return "the condition is a softmax vector, not one number"
        return None

    @torch.no_grad()
    def batches(
        self,
        wanted: Sequence[Request],
        truncation_psi: float = 1.0,
        noise_mode: str = "const",
        batch: int = 32,
        search: Search | None = None,
    ) -> Iterator[Batch]:
        """Yields up to ``batch`` requests at a time with what was generated for them."""
        if batch < 1:
            raise ValueError(f"batch must be at least 1, found {batch}")
        if not math.isfinite(truncation_psi):
            raise ValueError(f"truncation_psi must be finite, found {truncation_psi}")
        for begin in range(0, len(wanted), batch):
            part = wanted[begin : begin + batch]
            seeds = [r.seed for r in part]
            z, labels = latents(seeds, self.G.z_dim).to(self.device), self.labels(part)
            make = self._maker(z, seeds, truncation_psi, noise_mode)
            if search is None:
                yield Batch(part, make(torch.arange(len(part), device=self.device), labels, 0))
            else:
                assert self.classifier is not None
                found = search.run(make, labels, self.classifier, z)
                yield Batch(part, found.items, found.accepted, found.given)

    def _maker(self, z: torch.Tensor, seeds: Sequence[int], truncation_psi: float, noise_mode: str) -> Make:
        def make(rows: torch.Tensor, labels: torch.Tensor, draw: int) -> torch.Tensor:
            own = [seeds[row] for row in rows.tolist()]
            rng = SeedRng(redrawn(own, draw), self.device)
            with torch.autocast(self.device.type, enabled=False):  # a seed's image is the same whatever the caller does
                ws = self.G.mapping(redrawn_latents(z[rows], own, draw), labels, truncation_psi=truncation_psi)
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
            level = torch.tensor([u], dtype=torch.float32)
            rows.append(level if isinstance(u, tuple) else self.measure.rows(cls[None], level))
        return make_labels(classes.to(self.device), torch.cat(rows).to(self.device), self.num_classes)

    def answers(self, items: torch.Tensor, wanted: Sequence[Request]) -> list[Answer | None]:
        """What the classifier that travelled along says of each item and its request; None for each without one.

        Raises:
            ValueError: not as many items as requests.
        """
        if len(items) != len(wanted):
            raise ValueError(f"{len(items)} items do not go with {len(wanted)} requests")
        if self.classifier is None:
            return [None] * len(items)
        classes = None
        if all(r.cls is not None for r in wanted):
            classes = torch.tensor([r.cls or 0 for r in wanted], device=items.device)
        with torch.no_grad():
            pred, u = self.classifier.answer(items, classes)
        return [Answer(int(p), float(v)) for p, v in zip(pred, u, strict=True)]


def _each(values: Any) -> list[Any]:
    """A list's items, or a single value as the only one."""
    alone = isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0
    return [values] if alone else list(values)


def _for_all(values: Sequence[Any], n: int) -> Sequence[Any]:
    """n values, where one stands for all."""
    return values if len(values) == n else list(values) * n


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
    refuse_address(where)
    return newest_snapshot(where) if path is None or where.is_dir() else where


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] as bytes: the inverse of x / 127.5 - 1, values outside clipped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
