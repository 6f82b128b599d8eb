"""Affine warping of images without aliasing: enlarge twofold, sample bilinearly, shrink."""

from __future__ import annotations

import functools

import torch

from stylegan2_msp.augment.affine import compose, scale2d, translate2d
from stylegan2_msp.augment.reflect import reflect
from stylegan2_msp.augment.wavelets import SYM6
from torch_utils_ext.ops.grid_sample import grid_sample
from torch_utils_ext.ops.upfirdn2d import setup_filter, upfirdn2d

_BEFORE, _AFTER = 6, 5  # input samples that the 12-tap filter reads on either side, on the twofold grid
_RIM = 3  # pixels around the result that the shrinking filter reads
# Up to this size an axis is resampled by one dense matrix, which is quicker than a filter and needs no padded copy.
_LARGEST_MATRIX = 256


def warp(images: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Resamples images through an affine map (Karras et al. 2020, 'Training GANs with limited data', appendix B).

    An image goes on as its own mirror images in all directions. Those repeat every 2 (size - 1) pixels, so one
    enlarged period holds every pixel that any map can ask for, and nobody needs to look at the maps (and wait for the
    device) to find how much padding they want.

    Args:
        images: [N, C, H, W], H and W at least 2.
        inverse: [N, 3, 3]; where each pixel of the result is to be found in the image, in pixels from the centre.

    Returns:
        [N, C, H, W], differentiable any number of times with respect to `images`.
    """
    n, _, height, width = images.shape
    if n == 0:
        return images
    texture = _resample_axis(_resample_axis(images, 3, "enlarge"), 2, "enlarge")
    grid = _sampling_grid(inverse, width, height)
    sampled = grid_sample(texture, grid.to(texture.dtype))
    return _resample_axis(_resample_axis(sampled, 3, "shrink"), 2, "shrink")


def _sampling_grid(inverse: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Places in the texture for the twofold result with its rim, [N, 2 (H + 6), 2 (W + 6), 2] in [-1, 1]."""
    ones = torch.ones_like(inverse[:, 0, 0])
    # From pixels about the centre to fractions of a period; texel 2 k of the texture lies on pixel k.
    to_origin = translate2d(ones * ((width - 1) / 2), ones * ((height - 1) / 2))
    to_periods = scale2d(ones / (2 * (width - 1)), ones / (2 * (height - 1)))
    maps = compose([to_periods, to_origin, inverse])[:, :2, :, None, None]
    x, y = _centred(width, inverse), _centred(height, inverse)[:, None]
    grid = inverse.new_empty([len(inverse), len(y), len(x), 2])
    for axis, size in enumerate((width, height)):  # plane by plane: on both, interleaved, it takes twice as long
        along_x, along_y, offset = maps[:, axis].unbind(dim=1)
        place = x * along_x + (y * along_y + offset)
        place -= place.floor()
        texels = 4 * (size - 1) + 1  # one more than a period, for interpolation
        grid[..., axis] = place.mul_(2 - 2 / texels).add_(1 / texels - 1)
    return grid


def _centred(size: int, like: torch.Tensor) -> torch.Tensor:
    """Pixel coordinates about the centre of the samples of the twofold result with its rim, [2 (size + 6)]."""
    samples = torch.arange(2 * (size + 2 * _RIM), device=like.device, dtype=like.dtype)
    return samples / 2 - _RIM - (size - 1) / 2


def _resample_axis(x: torch.Tensor, axis: int, how: str) -> torch.Tensor:
    """Enlarges or shrinks axis 2 or 3, by a matrix where that pays."""
    step = _STEPS[how]
    size = x.shape[axis] if how == "enlarge" else x.shape[axis] // 2 - 2 * _RIM
    if size > _LARGEST_MATRIX:
        return step(x, axis)
    matrix = _matrix(how, x.shape[axis], x.device, x.dtype)
    return x @ matrix.T if axis == 3 else matrix @ x


@functools.lru_cache(maxsize=16)
def _matrix(how: str, size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """What a step does to each unit vector of `size`, as a matrix [result, size]."""
    with torch.inference_mode(False), torch.no_grad():
        units = torch.eye(size, dtype=torch.float64)[None, None]
        return _STEPS[how](units, 2)[0, 0].to(device=device, dtype=dtype)


def _enlarge(x: torch.Tensor, axis: int) -> torch.Tensor:
    """One period of the mirrored image on the twofold grid: size -> 4 (size - 1) + 1 along the axis."""
    size = x.shape[axis]
    pixels = torch.arange(-(_BEFORE // 2), 2 * (size - 1) + 1 + _AFTER // 2, device=x.device)
    extended = x.index_select(axis, reflect(pixels, size))
    return upfirdn2d(extended, _along(axis, x), up=_pair(axis, 2), gain=2)


def _shrink(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Back from the twofold grid, without the rim: 2 (size + 6) -> size along the axis."""
    # The enlarging filter turned round, on the same taps: the two together leave an image as it is.
    ends = (2 * _RIM - _AFTER, 2 * _RIM - _BEFORE)
    padding = (-ends[0], -ends[1], 0, 0) if axis == 3 else (0, 0, -ends[0], -ends[1])
    return upfirdn2d(x, _along(axis, x), down=_pair(axis, 2), padding=padding, flip_filter=True)


_STEPS = {"enlarge": _enlarge, "shrink": _shrink}


def _along(axis: int, like: torch.Tensor) -> torch.Tensor:
    """The lowpass filter as a row or a column."""
    taps = _lowpass(like.device)
    return taps[None, :] if axis == 3 else taps[:, None]


@functools.lru_cache(maxsize=8)
def _lowpass(device: torch.device) -> torch.Tensor:
    """Kept on the device, as copying it there would make the device wait."""
    with torch.inference_mode(False), torch.no_grad():
        return setup_filter(SYM6, device=device)


def _pair(axis: int, factor: int) -> tuple[int, int]:
    return (factor, 1) if axis == 3 else (1, factor)
