"""Does the classifier, shown G(z, y, u), answer with about u? A measurement cheap enough for every tick of a training.

u is the level of uncertainty (MSP or another measure) that was asked for, v what the frozen classifier gives by the
same measure, y the class asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.metrics.asking import ask_natural, ask_uniform, uniform_levels
from stylegan2_msp.metrics.observing import Items, Observers, observe_fakes
from stylegan2_msp.metrics.quality import diversity, pixel_features
from stylegan2_msp.metrics.scores import class_agreement, mae, spearman


@dataclass(frozen=True)
class ConditionFigures:
    """The figures of one measurement; NaN where one is undefined.

    ``natural``: labels of random real images. ``uniform``: every class at evenly spaced levels of u. The diversity is
    the mean distance of two fakes of a class (of `pixel_features`) as a share of the reals'.
    """

    natural_spearman: float
    natural_mae: float
    natural_class_agreement: float
    natural_diversity: float
    uniform_spearman: float
    uniform_mae: float
    uniform_class_agreement: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain data for JSON; None stands for undefined."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def measure_condition(
    G: Any,
    classifier: FrozenClassifier,
    labels_natural: torch.Tensor,
    levels: Sequence[float] | None = None,
    n: int = 512,
    *,
    generator: torch.Generator,
    batch: int = 128,
    real_diversity: float = math.nan,
) -> ConditionFigures:
    """Match between what is asked and what the classifier answers.

    Args:
        G: generator with z_dim, c_dim, mapping and synthesis; measured without gradients, each latent with its noise.
        classifier: the frozen classifier, with its measure.
        labels_natural: labels of the real data [M, c_dim], from which n are drawn.
        levels: levels of u for the uniform grid; by default those of `uniform_levels`.
        n: number of items for the natural and again for the uniform distribution.
        generator: source of every random number, on the CPU; seed it alike to measure alike.
        batch: items per pass.
        real_diversity: mean distance of two real items of a class.
    """
    K, measure = classifier.num_classes, classifier.measure
    levels = levels or uniform_levels(K, measure=measure)
    natural = ask_natural(labels_natural, n, G.z_dim, generator)
    uniform = ask_uniform(K, levels, n, G.z_dim, generator, measure)
    observers = Observers(classifier, features=pixel_features)
    here = observe_fakes(G, observers, natural, batch)
    there = observe_fakes(G, Observers(classifier), uniform, batch)
    assert here.features is not None
    variety = diversity(here.features, here.classes) / real_diversity
    return ConditionFigures(*_three(here), variety, *_three(there))


def _three(items: Items) -> tuple[float, float, float]:
    u, v = items.asked, items.answered
    return spearman(u, v), mae(u, v), class_agreement(items.classes, items.predicted)
