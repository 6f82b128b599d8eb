"""Lets tests run the checkout's training loop without a GPU; no user is meant to train so.

It stands for CUDA where the loop names it: devices are the CPU, events read the clock, memory counters are zero, and
processes speak gloo in place of nccl. Everything else, the loop itself included, is what runs on a GPU. Only
STYLEGAN2_MSP_CPU_LOOP=1 switches it on.
"""

from __future__ import annotations

import time
import types
from typing import Any

import torch

from stylegan2_msp.upstream.stand_ins import StandIn, available_device, data_parallel, torch_here, with_parallel


class ClockEvent:
    """As much of `torch.cuda.Event` as the loop asks for."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self, stream: Any = None) -> None:
        """Remembers the time."""
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """The CPU has nothing to wait for."""

    def elapsed_time(self, end: ClockEvent) -> float:
        """Milliseconds between two events."""
        return (end.at - self.at) * 1000


def _data_parallel(module: torch.nn.Module, device_ids: Any = None, **kwargs: Any) -> torch.nn.Module:
    return data_parallel(module, **kwargs)


def _join(backend: str, **kwargs: Any) -> None:
    torch.distributed.init_process_group("gloo" if backend == "nccl" else backend, **kwargs)


def torch_for_loop() -> types.ModuleType:
    """torch as the loop sees it without a GPU."""
    torch_here()
    cuda = StandIn(
        torch.cuda,
        Event=ClockEvent,
        current_stream=lambda device=None: None,
        max_memory_allocated=lambda device=None: 0,
        reset_peak_memory_stats=lambda device=None: None,
    )
    distributed = StandIn(torch.distributed, init_process_group=_join)
    return with_parallel(_data_parallel, device=available_device, cuda=cuda, distributed=distributed)
