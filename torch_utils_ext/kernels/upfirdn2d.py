"""Pad, upsample, filter and downsample images in one kernel, made to measure for the filter, factors and layout."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch

from torch_utils_ext.build import Defines
from torch_utils_ext.kernels.launch import SCALARS, Launch, memory_format, run

Pair = tuple[int, int]
Triple = tuple[int, int, int]
Quad = tuple[int, int, int, int]

# Up to these sizes a filter is unrolled into a kernel of its own.
_MAX_TAPS_2D = 64
_MAX_TAPS_1D = 16
_THREADS = 128
_GENERAL_THREADS = 256
# Limits of CUDA; the kernel knows the first one.
_MAX_BLOCKS_Z = 65535
_MAX_THREADS_Z = 64


class Task(NamedTuple):
    """One call, but for the numbers in its tensors. Pairs are (x, y)."""

    shape: Quad
    dtype: torch.dtype
    channels_last: bool
    taps: Pair
    separable: bool
    up: Pair
    down: Pair
    padding: Quad
    flip_filter: bool
    gain: float

    def output_size(self) -> Pair:
        """Width and height of the result."""
        width = (self.shape[3] * self.up[0] + sum(self.padding[:2]) - self.taps[0] + self.down[0]) // self.down[0]
        height = (self.shape[2] * self.up[1] + sum(self.padding[2:]) - self.taps[1] + self.down[1]) // self.down[1]
        return width, height


class Tile(NamedTuple):
    """Outputs of one thread, macros for how it reads and writes, threads of a block, and blocks of the grid."""

    outputs: Pair
    access: Defines
    block: Triple
    blocks: Triple


def upfirdn2d(
    x: torch.Tensor, f: torch.Tensor, up: Pair, down: Pair, padding: Quad, flip_filter: bool, gain: float
) -> torch.Tensor:
    """`torch_utils_ext.ops.upfirdn2d.upfirdn2d`, for CUDA images.

    Args:
        x: images [N, C, H, W], float64, float32, float16 or bfloat16. Contiguous and channels_last formats are kept.
        f: float32 filter [h, w], or [n] for one that is applied along both axes.
        up: factors (x, y).
        down: factors (x, y).
        padding: (left, right, top, bottom); negative numbers crop.
        flip_filter: False convolves, True correlates.
        gain: factor on the result.

    Raises:
        ValueError: the padded image is smaller than the filter.
        KernelsUnavailable: the kernel cannot be built or loaded.
    """
    memory = memory_format(x)
    last = memory == torch.channels_last
    if f.ndim == 1 and (last or f.shape[0] > _MAX_TAPS_1D or not _tileable(up, down)):
        x = upfirdn2d(x, f[None, :], (up[0], 1), (down[0], 1), (*padding[:2], 0, 0), flip_filter, 1.0)
        return upfirdn2d(x, f[:, None], (1, up[1]), (1, down[1]), (0, 0, *padding[2:]), flip_filter, gain)
    x = x.contiguous(memory_format=memory)
    if f.device != x.device or f.dtype is not torch.float32 or not f.is_contiguous():
        f = f.to(device=x.device, dtype=torch.float32).contiguous()
    if x.data_ptr() % 16:
        x = x.clone()
    n, c, h, w = x.shape
    taps = (f.shape[-1], f.shape[0])
    task = Task((n, c, h, w), x.dtype, last, taps, f.ndim == 1, up, down, padding, flip_filter, float(gain))
    (width, height), launch = launch_for(task)
    y = torch.empty((n, c, height, width), dtype=x.dtype, device=x.device, memory_format=memory)
    if launch is None:
        return y.zero_()
    run(launch, x.device, x.data_ptr(), f.data_ptr(), y.data_ptr())
    return y


@functools.lru_cache(maxsize=4096)
def launch_for(task: Task) -> tuple[Pair, Launch | None]:
    """Width and height of the result, and how to compute it; None if the images are empty."""
    size = task.output_size()
    if min(size) < 1:
        raise ValueError(
            f"images of {task.shape[2]}x{task.shape[3]} with up={task.up}, padding={task.padding} are smaller than "
            f"the {task.taps[1]}x{task.taps[0]} filter"
        )
    if math.prod(task.shape) == 0:
        return size, None
    if not task.separable and (math.prod(task.taps) > _MAX_TAPS_2D or not _tileable(task.up, task.down)):
        return size, _general(task, size)
    return size, _tiled(task, size, (_interleaved if task.channels_last else _planar)(task, size))


def _general(task: Task, size: Pair) -> Launch:
    """One output per thread, all sizes given at run time."""
    n, c, h, w = task.shape
    sizes = (n, c, w, h, *size, *task.taps, *task.up, *task.down, task.padding[0], task.padding[2])
    args = (*sizes, int(task.channels_last), int(task.flip_filter), task.gain)
    defines = (("K_NAME", "upfirdn2d"), ("K_SCALAR", SCALARS[task.dtype]))
    blocks = -(-(n * c * math.prod(size)) // _GENERAL_THREADS)
    return Launch("upfirdn2d", defines, (blocks, 1, 1), (_GENERAL_THREADS, 1, 1), args)


def _tiled(task: Task, size: Pair, tile: Tile) -> Launch:
    """Sizes of filter, factors and tile built in."""
    phase = (task.padding[0] % task.up[0], task.padding[2] % task.up[1])
    pairs = {"UP": task.up, "DOWN": task.down, "PHASE": phase, "OUTPUTS": tile.outputs}
    defines = (
        ("K_NAME", "upfirdn2d"),
        ("K_SCALAR", SCALARS[task.dtype]),
        ("K_FILTER_WIDTH", str(task.taps[0])),
        ("K_FILTER_HEIGHT", str(task.taps[1])),
        ("K_SEPARABLE", str(task.separable).lower()),
        ("K_FLIP", str(task.flip_filter).lower()),
        *(
            (f"K_{name}_{axis}", str(value))
            for name, pair in pairs.items()
            for axis, value in zip("XY", pair, strict=True)
        ),
        *tile.access,
    )
    n, c, h, w = task.shape
    first = (-(task.padding[0] // task.up[0]), -(task.padding[2] // task.up[1]))
    folds = -(-tile.blocks[2] // _MAX_BLOCKS_Z)
    grid = (tile.blocks[0] * folds, tile.blocks[1], min(tile.blocks[2], _MAX_BLOCKS_Z))
    args = (n, c, tile.blocks[0], w, h, *size, *first, task.gain)
    return Launch("upfirdn2d", defines, grid, tile.block, args)


def _planar(task: Task, size: Pair) -> Tile:
    """For contiguous images: threads of a block lie along image x, image y and planes.

    A thread's outputs along x are whole vector stores where the width allows it, so that the step of its window over
    the input is a whole number of vector loads. Rows that begin anywhere (SHIFT -1) are brought into place by the
    kernel. Odd widths can only be stored one by one: there, threads are two outputs wide, to store side by side.
    """
    planes, vector = math.prod(task.shape[:2]), 16 // task.dtype.itemsize
    limit = 4 if task.separable or task.down[0] > 1 else 8 if task.up[0] > 1 else max(vector, 4)
    across = max(_power_in(size[0], limit), 2)
    outputs = (across, 8 if across == 2 or (task.separable and task.down[1] == 1) else 4)
    store = _power_in(size[0], min(across, vector))
    load = _power_in(math.gcd(across * task.down[0] // task.up[0], math.prod(task.shape)), vector)
    shift = -(task.padding[0] // task.up[0]) % load if task.shape[3] % load == 0 else -1
    across_image, down_image = -(-size[0] // across), -(-size[1] // outputs[1])
    x = _share(across_image, 16 if across > 2 else 32)
    y = _share(down_image, _THREADS // x)
    z = min(planes, _THREADS // (x * y), _MAX_THREADS_Z)
    access = (("K_LOAD", str(load)), ("K_STORE", str(store)), ("K_SHIFT", str(shift)))
    return Tile(outputs, access, (x, y, z), (-(-across_image // x), -(-down_image // y), -(-planes // z)))


def _interleaved(task: Task, size: Pair) -> Tile:
    """For channels_last: threads of a block lie along channels, image x and image y.

    8 threads of 16 bytes make a cache line of channels. Threads far apart along the channels share no inputs and
    neighbours in the image do: beyond one line, a block is a patch of image rather than a longer row of channels.
    """
    lanes = _power_in(task.shape[1], 16 // task.dtype.itemsize)
    outputs = (4, 4) if lanes < 4 else (4, 2) if lanes == 4 else (2, 4 if task.down[1] == 1 else 2)
    across_image, down_image = -(-size[0] // outputs[0]), -(-size[1] // outputs[1])
    y, z = _share(across_image, 4), _share(down_image, 4)
    vectors = task.shape[1] // lanes
    x = min(vectors, _THREADS // (y * z))
    blocks = (-(-across_image // y), -(-down_image // z), -(-vectors // x) * task.shape[0])
    return Tile(outputs, (("K_LANES", str(lanes)),), (x, y, z), blocks)


def _tileable(up: Pair, down: Pair) -> bool:
    """With these factors, all tiles (2, 4 or 8 outputs a side) begin at a sample of the input alike."""
    return max(up) <= 2 and max(down) <= 4


def _power_in(number: int, limit: int) -> int:
    """The largest power of two up to `limit` that divides `number`."""
    return min(number & -number, limit)


def _share(count: int, limit: int) -> int:
    """`count` things in equal parts of at most `limit`: the size of a part."""
    parts = -(-count // limit)
    return -(-count // parts)
