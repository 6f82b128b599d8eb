"""The frozen classifier as a hook of the loop: is it still frozen, does its answer follow the MSP asked for, and is G
still as varied as the data?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.metrics.condition import measure_condition
from stylegan2_msp.metrics.quality import diversity, pixel_features


@dataclass
class ConditionMonitor:
    """Measures G_ema against the classifier at every tick, on the natural labels and on a uniform grid of MSP.

    Attributes:
        classifier: the frozen classifier.
        data: the training data.
        count: samples of each distribution.
        seed: the same latents and labels are drawn at every tick.
    """

    classifier: FrozenClassifier
    data: TrainingSet
    count: int = 512
    seed: int = 1

    def __post_init__(self) -> None:
        rows = torch.randint(len(self.data), (self.count,), generator=self._generator())
        rows, features = self.data.looked_at(rows.to(self.data.labels.device), pixel_features)
        classes = self.data.labels[rows, : self.classifier.num_classes].argmax(dim=1)
        self.real_diversity = diversity(features.cpu().numpy(), classes.cpu().numpy())

    @property
    def title(self) -> str:
        """Of the measure of uncertainty."""
        return self.classifier.measure.title

    def measure(self, G_ema: torch.nn.Module) -> dict[str, float | None]:
        """Figures by name, 'condition/natural_mae' and so on; None where one is undefined.

        Raises:
            RuntimeError: something changed the classifier.
        """
        self.classifier.verify_frozen()
        figures = measure_condition(
            G_ema,
            self.classifier,
            self.data.labels,
            n=self.count,
            generator=self._generator(),
            real_diversity=self.real_diversity,
        )
        return {f"condition/{name}": value for name, value in figures.to_dict().items()}

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)
