"""The label vector c = [class one-hot, uncertainty]: build it and take it apart.

The uncertainty is one number u (c has K + 1), or all class probabilities p_1 ... p_K (c has 2 K).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

IntsLike = torch.Tensor | Sequence[int]
FloatsLike = torch.Tensor | Sequence[float] | float


def make_labels(
    classes: IntsLike, u: FloatsLike, num_classes: int, device: torch.device | str | None = None
) -> torch.Tensor:
    """Label vectors [class one-hot, u] (Le Coz 2023, section 2).

    Args:
        classes: class indices in [0, num_classes), [N].
        u: the uncertainty: one value, [N], or softmax vectors [N, K] (`uncertainty.Measure.rows` makes them of levels).
        num_classes: K.

    Returns:
        float32 [N, K + 1] or [N, 2 K].

    Raises:
        ValueError: a class lies outside [0, num_classes) or is no whole number.
    """
    given = torch.as_tensor(classes, device=device).reshape(-1)
    index = given.to(torch.int64)
    if given.is_floating_point() and bool((index != given).any()):
        raise ValueError(f"classes must be whole numbers, found {given[index != given][0].item()}")
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= num_classes):
        raise ValueError(f"classes must lie in [0, {num_classes - 1}], found {int(index.min())} to {int(index.max())}")
    values = torch.as_tensor(u, dtype=torch.float32, device=index.device)
    if values.ndim < 2:
        values = values.reshape(-1).expand(index.shape[0])[:, None]
    one_hot = torch.nn.functional.one_hot(index, num_classes).to(torch.float32)
    return torch.cat([one_hot, values], dim=1)


def split_labels(c: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes labels apart: the class one-hot [N, K], and u [N] of labels [N, K + 1] or p [N, K] of labels [N, 2 K]."""
    if c.ndim != 2 or c.shape[1] not in (num_classes + 1, 2 * num_classes):
        wanted = f"[N, {num_classes + 1}] (one-hot and one number) or [N, {2 * num_classes}] (one-hot and softmax)"
        raise ValueError(f"labels must be {wanted}, found {list(c.shape)}")
    one_hot, u = c[:, :num_classes], c[:, num_classes:]
    return one_hot, u[:, 0] if u.shape[1] == 1 else u


def level(c: torch.Tensor, num_classes: int) -> torch.Tensor:
    """One number per label, [N]: u itself, or of a softmax vector the probability of the label's class."""
    one_hot, u = split_labels(c, num_classes)
    return u if u.ndim == 1 else (one_hot * u).sum(dim=1)
