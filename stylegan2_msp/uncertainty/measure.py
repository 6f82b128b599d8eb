"""What every measure of uncertainty has: a name, a range, a direction, and its formula in the logits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch


@dataclass(frozen=True)
class Measure:
    """One measure; its fields are what it learned from the annotated data (most have none).

    Attributes:
        name: as ``--uncertainty`` takes it and archives record it.
        title: for people: axes, rows of grids.
        certain: 'high' or 'low', the end of the range at which the classifier is sure.
        draws: forward passes with dropout that it wants; 0 for one plain pass.
        of_class: whether it depends on the class that the image should have.
        from_probs: whether p alone determines it.
        probability: whether its numbers are probabilities, at whose ends the softmax saturates.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    certain: ClassVar[str] = "high"
    draws: ClassVar[int] = 0
    of_class: ClassVar[bool] = False
    from_probs: ClassVar[bool] = True
    probability: ClassVar[bool] = False

    @property
    def steepness(self) -> float:
        """Factor of |v - u| in G's loss, above 1 where u hardly moves with the logits."""
        return 1.0

    def low(self, num_classes: int) -> float:
        """Least value of a level."""
        return 0.0

    def high(self, num_classes: int) -> float:
        """Greatest value of a level."""
        return 1.0

    def size(self, num_classes: int) -> int:
        """Numbers per image: 1, or K for the full softmax vector."""
        return 1

    def sure(self, num_classes: int) -> float:
        """The level at which the classifier is sure."""
        return self.high(num_classes) if self.certain == "high" else self.low(num_classes)

    def unsure(self, num_classes: int) -> float:
        """The level at the other end."""
        return self.low(num_classes) if self.certain == "high" else self.high(num_classes)

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """The measure, differentiable in the logits.

        Args:
            logits: [N, K]; [T, N, K] where ``draws`` = T > 0.
            classes: int64 [N], needed where ``of_class``.

        Returns:
            [N], or [N, K] where ``size`` is K.
        """
        raise NotImplementedError

    def level(self, values: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """One number [N] for each image's values ([N] or [N, K]) and class [N]."""
        return values

    def rows(self, classes: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """What a label vector holds after the class for a level [N]: [N, ``size``]."""
        return levels[:, None]

    def fitted(self, logits: torch.Tensor, classes: torch.Tensor) -> Measure:
        """The measure with what it learns from the data that is annotated: logits as `__call__` takes, classes [N]."""
        return self

    def settings(self) -> dict[str, Any]:
        """Plain JSON data from which `make_measure` makes it again."""
        return {"name": self.name} | {item.name: getattr(self, item.name) for item in fields(self)}


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """-sum_k p_k log p_k in nats over the last dimension."""
    log_p = logits.log_softmax(dim=-1)
    return (log_p.exp() * -log_p).sum(dim=-1)  # so that zero is not -0


def of_class(probs: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
    if classes is None:
        raise ValueError("this measure is the probability of a class: give classes, int64 [N]")
    if classes.shape != probs.shape[:1]:
        raise ValueError(f"{len(probs)} samples need as many classes [N], found {list(classes.shape)}")
    return probs.gather(1, classes[:, None].to(probs.device))[:, 0]
