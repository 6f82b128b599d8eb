"""The label vector c = [class one-hot, uncertainty]: build it and take it apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch

IntsLike = torch.Tensor | Sequence[int]
FloatsLike = torch.Tensor | Sequence[float] | float


def make_labels(
    classes: IntsLike, msp: FloatsLike, num_classes: int, device: torch.device | str | None = None
) -> torch.Tensor:
    """Label vectors [class one-hot, MSP] (Le Coz 2023, section 2).

    Args:
        classes: class indices in [0, num_classes), [N].
        msp: maximum softmax probability in [1 / num_classes, 1], one value or [N].
        num_classes: K.

    Returns:
        float32 [N, K + 1].

    Raises:
        ValueError: a class lies outside [0, num_classes).
    """
    index = torch.as_tensor(classes, dtype=torch.int64, device=device).reshape(-1)
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= num_classes):
        raise ValueError(f"classes must lie in [0, {num_classes - 1}], found {int(index.min())} to {int(index.max())}")
    u = torch.as_tensor(msp, dtype=torch.float32, device=index.device).reshape(-1).expand(index.shape[0])
    one_hot = torch.nn.functional.one_hot(index, num_classes).to(torch.float32)
    return torch.cat([one_hot, u[:, None]], dim=1)


def split_labels(c: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes labels [N, K + 1] apart into the class one-hot [N, K] and the uncertainty [N]."""
    if c.ndim != 2 or c.shape[1] != num_classes + 1:
        raise ValueError(f"labels must be [N, {num_classes + 1}] (one-hot and MSP), found {list(c.shape)}")
    return c[:, :num_classes], c[:, num_classes]
