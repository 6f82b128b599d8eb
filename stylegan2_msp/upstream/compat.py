"""One function per break between a checkout of 2021 and today's libraries: each alters a module just imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from stylegan2_msp.errors import UserError
from stylegan2_msp.upstream import stand_ins
from stylegan2_msp.upstream.operators import OPERATORS

CPU_LOOP = "STYLEGAN2_MSP_CPU_LOOP"  # set by tests only, see `cpu_loop`


class _TakesDataSource(torch.utils.data.Sampler[int]):
    """Between the checkout's sampler and torch's, which takes no data source any more."""

    def __init__(self, data_source: Any = None) -> None:
        super().__init__()


def sampler_without_data_source(misc: Any) -> None:
    """`InfiniteSampler` hands its data set to `Sampler.__init__`, a TypeError in newer torch."""
    misc.InfiniteSampler = type("InfiniteSampler", (misc.InfiniteSampler, _TakesDataSource), {})


def our_operators(module: ModuleType) -> None:
    """CUDA plugins do not build with newer torch, gradient fixes refuse it; ours need neither."""
    for name, operator in OPERATORS[module.__name__.rpartition(".")[2]].items():
        setattr(module, name, operator)


def natural_distribution(metric_utils: Any) -> None:
    """Metrics on the data as they are, also where training draws them otherwise; on the CPU if need be."""
    plain = metric_utils.MetricOptions

    class MetricOptions(plain):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for name in ("flatten", "vicinal"):
                self.dataset_kwargs.pop(name, None)

    metric_utils.MetricOptions = MetricOptions
    metric_utils.torch = stand_ins.torch_here()


def percentiles(module: Any) -> None:
    """`numpy.percentile(interpolation=...)` is gone."""
    module.np = stand_ins.NUMPY_HERE


def matrix_root(module: Any) -> None:
    """`scipy.linalg.sqrtm(disp=False)` goes in scipy 1.18."""
    module.scipy = stand_ins.SCIPY_HERE


def half_distances(module: Any) -> None:
    """CPUs have no distances in half precision."""
    module.torch = stand_ins.StandIn(stand_ins.torch_here(), cdist=stand_ins.cdist_any)


def training(training_loop: Any) -> None:
    """Levels by class in place of one row per float label, and processes that begin with the same buffers."""
    from stylegan2_msp.upstream.grid import grid_or

    training_loop.setup_snapshot_image_grid = grid_or(training_loop.setup_snapshot_image_grid)
    training_loop.torch = torch_of_the_loop()
    copy = naming_shapes(training_loop.misc.copy_params_and_buffers)
    training_loop.misc = stand_ins.StandIn(training_loop.misc, copy_params_and_buffers=copy)


def naming_shapes(copy: Callable[..., None]) -> Callable[..., None]:
    """`copy_params_and_buffers`, which for networks of ours says in one line what does not fit."""
    from stylegan2_msp.upstream.adapter import ReferenceDiscriminator, ReferenceGenerator

    def copy_fitting(src: torch.nn.Module, dst: torch.nn.Module, require_all: bool = False) -> None:
        theirs = src.state_dict()
        for name, mine in (
            dst.state_dict().items() if isinstance(dst, ReferenceGenerator | ReferenceDiscriminator) else ()
        ):
            if name in theirs and theirs[name].shape != mine.shape:
                raise UserError(
                    f"--resume: {name} is {list(theirs[name].shape)} there and {list(mine.shape)} here, the label or "
                    "the networks are others; leave it out, or use `stylegan2-msp import` and our `train --resume`"
                )
        copy(src, dst, require_all=require_all)

    return copy_fitting


def torch_of_the_loop() -> ModuleType:
    """torch as train.py and its loop see it: that of the tests' under `CPU_LOOP`."""
    if os.environ.get(CPU_LOOP) == "1":
        from stylegan2_msp.upstream.cpu_loop import torch_for_loop

        return torch_for_loop()
    return stand_ins.with_parallel(stand_ins.data_parallel)


def networks_of_ours(legacy: Any) -> None:
    """Our snapshots load beside pickles, and a generator knows what its label holds."""
    from stylegan2_msp.upstream.loading import reading_ours

    legacy.load_network_pkl = reading_ours(legacy.load_network_pkl)
