"""The upfirdn2d kernels, compiled for the host, against the definition of the operator in float64."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from torch_utils_ext.kernels import upfirdn2d as kernel
from torch_utils_ext.kernels.upfirdn2d import Task, launch_for
from torch_utils_ext.ops.upfirdn2d import upfirdn2d

# Of the largest value: sums in float32 (float64), one rounding to the type.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
SHAPES = [(2, 8, 8, 16), (1, 3, 9, 13), (2, 6, 5, 11), (1, 16, 12, 6), (3, 2, 33, 65), (2, 2, 40, 136)]


def task(shape: Any, dtype: torch.dtype, last: bool, taps: Any, up: Any, down: Any, padding: Any, flip: bool) -> Task:
    """taps: (width, height), or one number for a separable filter."""
    size = (taps, taps) if isinstance(taps, int) else taps
    return Task(shape, dtype, last, size, isinstance(taps, int), up, down, padding, flip, 1.5)


def check_all(on_host: Any, tasks: list[Task]) -> None:
    """Runs tasks with random numbers surrounded by NaN in memory. Taps are small integers, so that products of them
    and their sums are exact in any order."""
    tasks = [task for task in tasks if min(task.output_size()) > 0]
    launches = {task: launch_for(task)[1] for task in tasks}
    host = on_host(launches.values())
    generator = torch.Generator().manual_seed(0)
    for task, launch in launches.items():
        n, c, h, w = task.shape
        memory = torch.channels_last if task.channels_last else torch.contiguous_format
        numbers = torch.full([n * c * h * w + 64], float("nan"), dtype=task.dtype)
        stored = (n, h, w, c) if task.channels_last else task.shape
        x = numbers[32:-32].view(stored)
        x.copy_(torch.randn(stored, generator=generator))
        x = x.permute(0, 3, 1, 2) if task.channels_last else x
        taps = [task.taps[0]] if task.separable else [task.taps[1], task.taps[0]]
        f = torch.randint(-4, 5, taps, generator=generator).float()
        size = task.output_size()
        y = torch.full((n, c, size[1], size[0]), float("nan"), dtype=task.dtype).contiguous(memory_format=memory)
        host.run(launch, x, f, y)
        expected = upfirdn2d(
            x.double(), f, task.up, task.down, task.padding, task.flip_filter, task.gain, impl="ref"
        ).contiguous()
        error = (y.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
        assert error <= TOLERANCE[task.dtype], (task, launch)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_stylegan_filters(on_host: Any, dtype: torch.dtype) -> None:
    """4x4 taps with up 2, down 2 and 1, 12 separable taps; both formats; rows that begin at vectors and others."""
    # More channels than one block takes, and the last block of them not full.
    tasks = [task((2, 72, 9, 17), dtype, True, (4, 4), (1, 1), (1, 1), (2, 1, 2, 1), flip=False)]
    for number, shape in enumerate(SHAPES):
        for last in (False, True):
            for up, down, padding in (
                ((1, 1), (1, 1), (2, 1, 2, 1)),
                ((1, 1), (1, 1), (1, 1, 1, 1)),
                ((1, 1), (1, 1), (2, 2, 2, 2)),
                ((2, 2), (1, 1), (2, 1, 2, 1)),
                ((2, 2), (1, 1), (3, -1, 1, 0)),
                ((1, 1), (2, 2), (1, 1, 1, 1)),
                ((1, 1), (2, 2), (2, -3, -1, 2)),
            ):
                if (number + sum(padding)) % 2 == 0 or number < 2:
                    tasks.append(task(shape, dtype, last, (4, 4), up, down, padding, flip=bool(number % 2)))
        if number in (0, 1, 4):
            tasks.append(task(shape, dtype, False, 12, (2, 2), (1, 1), (6, 5, 6, 5), flip=False))
            tasks.append(task(shape, dtype, False, 12, (1, 1), (2, 2), (5, 5, 5, 5), flip=True))
    check_all(on_host, tasks)


def random_tasks(seed: int, count: int) -> list[Task]:
    choose = random.Random(seed)
    tasks = []
    while len(tasks) < count:
        shape = (choose.randint(1, 2), choose.choice([1, 2, 3, 4, 8, 12]), choose.randint(1, 20), choose.randint(1, 70))
        last = choose.random() < 0.5
        separable = not last and choose.random() < 0.3
        taps = choose.randint(1, 16) if separable else (choose.randint(1, 8), choose.randint(1, 8))
        up = (choose.randint(1, 2), choose.randint(1, 2))
        down = (choose.randint(1, 4), choose.randint(1, 4))
        padding = tuple(choose.randint(-3, 12) for _ in range(4))
        drawn = task(shape, choose.choice(list(TOLERANCE)), last, taps, up, down, padding, choose.random() < 0.5)
        if min(drawn.output_size()) > 0:
            tasks.append(drawn)
    return tasks


def test_random_settings(on_host: Any) -> None:
    check_all(on_host, random_tasks(0, 16))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_more_random_settings(on_host: Any, seed: int) -> None:
    check_all(on_host, random_tasks(seed, 100))


def test_general_kernel(on_host: Any) -> None:
    """Filters and factors that no tile is made for."""
    tasks = []
    for number, dtype in enumerate(TOLERANCE):
        for last in (False, True):
            tasks += [
                task((2, 3, 7, 9), dtype, last, (9, 9), (1, 1), (1, 1), (4, 4, 4, 4), flip=bool(number % 2)),
                task((1, 2, 5, 6), dtype, last, (4, 4), (3, 1), (2, 5), (3, -1, -2, 9), flip=last),
                task((1, 2, 6, 5), dtype, last, (3, 20), (4, 3), (3, 7), (-5, 8, 9, -4), flip=False),
            ]
    check_all(on_host, tasks)


def test_more_planes_than_a_grid_has_blocks(on_host: Any) -> None:
    """4.2 million planes of one pixel: blocks along z continue along x."""
    planes = kernel._MAX_BLOCKS_Z * kernel._MAX_THREADS_Z + 1000
    for shape, last in (((1, planes, 1, 1), False), ((planes // 64, 1, 1, 1), True)):
        one = task(shape, torch.float32, last, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), flip=False)
        _, launch = launch_for(one)
        assert launch is not None
        assert launch.grid[0] == 2
        assert launch.grid[2] == kernel._MAX_BLOCKS_Z
        check_all(on_host, [one])


def test_sizes() -> None:
    """Too small an image is an error; an empty one has nothing to launch."""
    small = task((1, 1, 2, 2), torch.float32, False, (4, 4), (1, 1), (1, 1), (0, 0, 0, 0), flip=False)
    with pytest.raises(ValueError, match="2x2"):
        launch_for(small)
    assert launch_for(small._replace(shape=(0, 1, 8, 8))) == ((5, 5), None)
