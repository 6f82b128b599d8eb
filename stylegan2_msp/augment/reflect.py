"""Reflected image borders, of any width: coordinates and filter matrices."""

from __future__ import annotations

import torch


def reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Folds whole pixel indices into 0 .. size - 1 as mirrors standing on the first and the last pixel would."""
    period = 2 * (size - 1)
    folded = index % period
    return torch.minimum(folded, period - folded)


def reflected_filters(filters: torch.Tensor, size: int) -> torch.Tensor:
    """Matrices [k, size, size] that filter a reflected line of `size` pixels by each of the odd `filters` [k, taps]."""
    count, taps = filters.shape
    reach = torch.arange(taps, device=filters.device) - taps // 2
    source = reflect(torch.arange(size, device=filters.device)[:, None] + reach, size)
    matrices = filters.new_zeros([count, size, size])
    return matrices.scatter_add_(2, source.expand(count, -1, -1), filters[:, None, :].expand(-1, size, -1).contiguous())
