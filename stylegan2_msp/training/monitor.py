"""The frozen classifier as a hook of the loop: is it still frozen, and does its answer follow the MSP asked for?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.metrics.condition import measure_condition


@dataclass
class ConditionMonitor:
    """Measures G_ema against the classifier at every tick, on the natural labels and on a uniform grid of MSP.

    Attributes:
        classifier: the frozen classifier.
        labels: natural labels, float32 [M, K + 1].
        count: samples of each distribution.
        seed: the same latents and labels are drawn at every tick.
    """

    classifier: FrozenClassifier
    labels: torch.Tensor
    count: int = 512
    seed: int = 1

    def measure(self, G_ema: torch.nn.Module) -> dict[str, float | None]:
        """Figures by name, 'condition/natural_mae' and so on; None where one is undefined.

        Raises:
            RuntimeError: something changed the classifier.
        """
        self.classifier.verify_frozen()
        generator = torch.Generator().manual_seed(self.seed)
        figures = measure_condition(G_ema, self.classifier, self.labels, n=self.count, generator=generator)
        return {f"condition/{name}": value for name, value in figures.to_dict().items()}
