"""Batches of homogeneous matrices: one [n, 3, 3] (plane) or [n, 4, 4] (colour space) per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def _from_rows(rows: list[list[torch.Tensor | float]], like: torch.Tensor) -> torch.Tensor:
    entries = [v if isinstance(v, torch.Tensor) else torch.full_like(like, v) for row in rows for v in row]
    return torch.stack(entries, dim=-1).reshape(*like.shape, len(rows), len(rows))


def compose(factors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Product of batches of matrices from left to right, in full precision whatever matrix units are allowed to do."""
    product = factors[0]
    for factor in factors[1:]:
        product = (product[:, :, :, None] * factor[:, None, :, :]).sum(dim=2)
    return product


def translate2d(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Moves points by (x, y): [n] and [n] -> [n, 3, 3]."""
    return _from_rows([[1, 0, x], [0, 1, y], [0, 0, 1]], x)


def scale2d(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Scales about the origin by (x, y): [n] and [n] -> [n, 3, 3]."""
    return _from_rows([[x, 0, 0], [0, y, 0], [0, 0, 1]], x)


def rotate2d(angle: torch.Tensor) -> torch.Tensor:
    """Turns the x axis towards the y axis by `angle` radians: [n] -> [n, 3, 3]."""
    c, s = angle.cos(), angle.sin()
    return _from_rows([[c, -s, 0], [s, c, 0], [0, 0, 1]], angle)


def colour_matrix(linear: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
    """Joins a linear map [n, 3, 3] of (r, g, b) and an offset [n, 3] into [n, 4, 4]."""
    matrix = linear.new_zeros([linear.shape[0], 4, 4])
    matrix[:, :3, :3] = linear
    if offset is not None:
        matrix[:, :3, 3] = offset
    matrix[:, 3, 3] = 1
    return matrix


def rotate3d(axis: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Rotations [n, 3, 3] about the unit vector `axis` [3] by `angle` [n] radians (Rodrigues' formula)."""
    x, y, z = axis.unbind()
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    along = torch.outer(axis, axis)
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return c * torch.eye(3, dtype=axis.dtype, device=axis.device) + s * cross + (1 - c) * along
