"""The frozen classifier as a hook of the loop: is it still frozen, does its answer follow the MSP asked for, and is G
still as varied as the data?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.metrics.condition import item_diversity, measure_condition


@dataclass
class ConditionMonitor:
    """Measures G_ema against the classifier at every tick, on the natural labels and on a uniform grid of MSP.

    Attributes:
        classifier: the frozen classifier.
        data: the training data.
        count: samples of each distribution.
        seed: the same latents and labels are drawn at every tick.

    Raises:
        UserError: a real image cannot be read.
    """

    classifier: FrozenClassifier
    data: TrainingSet
    count: int = 512
    seed: int = 1

    def __post_init__(self) -> None:
        rows = torch.randint(len(self.data), (self.count,), generator=self._generator())
        classes = self.data.labels.cpu()[rows, : self.classifier.num_classes].argmax(dim=1)
        self.real_diversity = item_diversity(self.data.reals(rows), classes.numpy())

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
