"""The whole evaluation of a generator: what is asked, who looks, and every figure in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.data.archive import Archive
from stylegan2_msp.generation import ConditionalGenerator
from stylegan2_msp.metrics.asking import Asked, ask_matched, ask_natural, ask_uniform, bins_of, uniform_levels
from stylegan2_msp.metrics.baselines import nearest_real, rejection, shuffled
from stylegan2_msp.metrics.intervals import Interval, bootstrap
from stylegan2_msp.metrics.judges import Judges, corruption_kinds
from stylegan2_msp.metrics.matching import Scale, add_levels, add_match, class_figures
from stylegan2_msp.metrics.observing import Features, Items, Observers, observe_fakes, observe_reals
from stylegan2_msp.metrics.realism import Reference, add_energy, add_realism, add_reals
from stylegan2_msp.metrics.results import Results
from stylegan2_msp.search import Search

Array = npt.NDArray[Any]
_SHARE = 5  # of so many items one is made in each of the other ways


@dataclass(frozen=True)
class RealData:
    """An archive, its items (read when they are first asked for) and the kinds of corruption that it records."""

    archive: Archive

    @cached_property
    def data(self) -> Array:
        """uint8 images [N, C, H, W] or float32 points [N, 2]."""
        archive = self.archive
        return archive.load_points() if archive.kind == "points" else archive.load_images()

    @cached_property
    def kinds(self) -> Array | None:
        """As `corruption_kinds`."""
        return corruption_kinds(self.archive)


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        results: the table.
        items: generated items by distribution ('natural', 'uniform', 'matched').
        reals: the real items that were looked at, where there are any.
        scale: levels and range of the measure.
    """

    results: Results
    items: dict[str, Items]
    reals: Items | None
    scale: Scale


@dataclass
class Evaluator:
    """Evaluates one generator.

    Attributes:
        generator: with its classifier.
        n: items of each distribution.
        seed: of every random number.
        batch: items per pass.
        real: the data, without which there is only the uniform distribution.
        judges: the second classifier and the probe; without them nothing is said of quality.
        features: in place of the second classifier's.
        quality: whether to measure FID and the like.
        baseline: a generator conditioned on the class alone, for rejection sampling.
        search: how to come near the levels asked for (`search.Search`); by default G is given them.
        ways: other searches by name. Their items, a fifth as many, get the figures that baselines get.
        truncation_psi: of the generator's w (`ConditionalGenerator.sample`).

    Raises:
        ValueError: ``n`` or ``batch`` below 1, ``seed`` below 0, or ``truncation_psi`` not finite.
    """

    generator: ConditionalGenerator
    n: int = 10_000
    seed: int = 0
    batch: int = 128
    real: RealData | None = None
    judges: Judges | None = None
    features: Features | None = None
    quality: bool = True
    baseline: ConditionalGenerator | None = None
    search: Search | None = None
    ways: Mapping[str, Search] = field(default_factory=dict)
    truncation_psi: float = 1.0
    results: Results = field(default_factory=Results)

    def __post_init__(self) -> None:
        if min(self.n, self.batch) < 1 or self.seed < 0 or not math.isfinite(self.truncation_psi):
            given = f"n={self.n}, batch={self.batch}, seed={self.seed}, truncation_psi={self.truncation_psi}"
            raise ValueError(f"n and batch must be at least 1, seed at least 0, truncation_psi finite; found {given}")
        classifier = self.generator.classifier
        assert classifier is not None
        self.classifier: FrozenClassifier = classifier
        self.measure = self.generator.measure
        K = self.generator.num_classes
        self.scale = Scale(uniform_levels(K, measure=self.measure), self.measure.low(K), self.measure.high(K))
        second, probe = (self.judges.second, self.judges.probe) if self.judges else (None, None)
        unit = self.judges.unit if self.judges else 1.0
        self.observers = Observers(self.classifier, second, probe, self.features, unit)
        self.transfer = self.measure.draws == 0  # the second classifier has no dropout

    def run(self) -> Evaluation:
        """Every figure that the given data, judges and baseline allow."""
        asked = self._asked(self.n, self.search)
        items = {name: self._observe(f"generating ({name})", asked[name], self.search) for name in asked}
        for name in ("natural", "uniform"):
            if name in items:
                add_match(self.results, items[name], self.scale, name, self.seed, self.transfer)
        for name, found in items.items():
            self._add_costs("fakes", found, name)
        if "matched" in items:
            add_levels(self.results, items["matched"], self.scale, "matched", self.seed, self.transfer)
        reals = None
        if self.real is not None:
            everyone = self._all_reals(self.real)
            reference = self._reference(self.real, everyone)
            add_reals(self.results, everyone, reference, self.scale, self.seed, self.transfer)
            if self.judges is not None:
                add_realism(self.results, reference, items, self.scale, self.seed, self.quality)
                if self.generator.kind == "points":
                    add_energy(self.results, reference, items["natural"], self.seed)
                reals = reference.seen
            self._baselines(items, everyone)
        for of, search in self.ways.items():
            self._other_way(of, search)
        return Evaluation(self.results, items, reals, self.scale)

    def _asked(self, n: int, search: Search | None) -> dict[str, Asked]:
        rng = torch.Generator().manual_seed(self.seed)
        K, z_dim = self.generator.num_classes, int(self.generator.G.z_dim)
        levels = self.scale.levels
        shared = search is None or search.draws is None
        asked = {"uniform": ask_uniform(K, levels, n, z_dim, rng, self.measure, shared)}
        if self.real is not None:
            labels = torch.from_numpy(self.real.archive.labels())
            asked["natural"] = ask_natural(labels, n, z_dim, rng)
            if self.judges is not None:
                asked["matched"] = ask_matched(labels, K, levels, n, z_dim, rng)
        return {name: wanted for name, wanted in asked.items() if len(wanted)}

    def _observe(self, shown: str, asked: Asked, search: Search | None) -> Items:
        G, psi = self.generator.G, self.truncation_psi
        return observe_fakes(G, self.observers, asked, self.batch, shown, search, psi)

    def _other_way(self, of: str, search: Search) -> None:
        asked = self._asked(max(self.n // _SHARE, 1), search)
        for on in ("natural", "uniform"):
            if on in asked:
                items = self._observe(f"{of} ({on})", asked[on], search)
                self._baseline(of, items, on)
                self._add_costs(of, items, on)

    def _all_reals(self, real: RealData) -> Items:
        """Every real item with what the archive records of it; nobody looks."""
        archive = real.archive
        assert archive.classes is not None
        u = archive.levels().astype(np.float64)
        if archive.probs is not None:
            predicted = archive.probs.argmax(axis=1)
        else:
            alone = Observers(self.classifier)
            predicted = observe_reals(real.data, archive.classes, u, alone, 2 * self.batch, "classifying").predicted
        return Items(archive.classes, u, predicted, u, kinds=real.kinds)

    def _reference(self, real: RealData, everyone: Items) -> Reference:
        """Draws the real items that fakes are compared with, and shows them to the judges."""
        rng = np.random.default_rng(self.seed)
        N, per_level = len(everyone), self.n // len(self.scale.levels)
        order = rng.permutation(N)
        half = min(self.n, N // 2)
        bins = bins_of(everyone.asked, self.scale.levels)
        parts: dict[float | None, tuple[Array, Array]] = {None: (order[:half], order[half : 2 * half])}
        for b, level in enumerate(self.scale.levels):
            members = order[bins[order] == b]
            half = min(per_level, len(members) // 2)
            parts[level] = (members[:half], members[half : 2 * half])
        if self.judges is None:
            return Reference(None, {}, np.empty(0, np.int64))
        used = [rows for pair in parts.values() for rows in pair]
        rows = np.unique(np.concatenate([*used, self.judges.held_out]))
        assert real.archive.classes is not None
        seen = observe_reals(
            real.data[rows], everyone.classes[rows], everyone.asked[rows], self.observers, 2 * self.batch, "real items"
        )
        place = np.full(N, -1)
        place[rows] = np.arange(len(rows))
        return Reference(
            seen, {level: (place[a], place[b]) for level, (a, b) in parts.items()}, place[self.judges.held_out]
        )

    def _baselines(self, items: dict[str, Items], everyone: Items) -> None:
        pool = self._pool() if self.baseline is not None else None
        for on in ("natural", "uniform"):
            self._baseline("shuffled", shuffled(items[on], self.seed), on)
            self._baseline("nearest real", nearest_real(items[on], everyone), on)
            if pool is None:
                continue
            near = self.scale.eps if self.search is None else self.search.within
            drawn = rejection(items[on], pool, near, self.seed)
            self._baseline("rejection", drawn, on)
            self._add_costs("rejection", drawn, on)

    def _add_costs(self, of: str, items: Items, on: str) -> None:
        """Items made per accepted one and the share accepted, overall and per level, where there was a search."""
        if items.made is None or items.accepted is None:
            return
        bins = bins_of(items.asked, self.scale.levels)
        rows: list[tuple[float | None, Array]] = [(None, np.arange(len(bins)))]
        rows += [(level, np.flatnonzero(bins == b)) for b, level in enumerate(self.scale.levels)]
        for level, at in rows:
            if len(at):
                where: dict[str, Any] = {"count": len(at), "of": of, "on": on, "level": level}
                self.results.add("cost", items.take(at).cost(), **where)
                self.results.add("accepted", items.accepted[at].mean(), **where)

    def _baseline(self, of: str, items: Items, on: str) -> None:
        figures = class_figures(items, self.scale, self.transfer)
        spread: dict[str, Interval] = {}
        if (of, on) != ("nearest real", "uniform"):  # there a few real items answer all requests: no sample to resample
            spread = bootstrap(
                lambda r: class_figures(items.take(r), self.scale, self.transfer),
                len(items),
                self.seed,
                items.group,
                resamples=50,
            )
        self.results.add_all(figures, spread, count=len(items), of=of, on=on)

    def _pool(self) -> Items:
        """Items of the class-only generator, all classes equally often, as the same classifier sees them."""
        assert self.baseline is not None
        K, rng = self.generator.num_classes, torch.Generator().manual_seed(self.seed + 1)
        n = max(self.n, K)  # a request of a class that nothing was made of could not be met
        asked = ask_uniform(K, self.scale.levels[-1:], n, int(self.baseline.G.z_dim), rng, self.measure)
        return observe_fakes(self.baseline.G, Observers(self.classifier), asked, self.batch, "generating (class only)")
