"""Which dtype and memory format a block of layers computes in."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# Below this resolution float16 loses too much; bfloat16 has the range of float32 and may go on to the end.
_FLOAT16_FROM = 8


@dataclass(frozen=True)
class Precision:
    """How one block computes.

    Attributes:
        half: dtype that the block would like, or None for float32.
        channels_last: use channels_last in half precision on accelerators; CPUs always do, it is quicker there.
    """

    half: torch.dtype | None = None
    channels_last: bool = False

    def dtype(self, device: torch.device, force_fp32: bool = False) -> torch.dtype:
        """The dtype on `device`: float16 is for accelerators only, bfloat16 runs everywhere."""
        if self.half is None or force_fp32 or (self.half == torch.float16 and device.type == "cpu"):
            return torch.float32
        return self.half

    def place(self, x: torch.Tensor, force_fp32: bool = False) -> torch.Tensor:
        """`x` in the block's dtype and memory format."""
        dtype = self.dtype(x.device, force_fp32)
        last = x.device.type == "cpu" or (self.channels_last and dtype != torch.float32)
        return x.to(dtype=dtype, memory_format=torch.channels_last if last else torch.contiguous_format)


def block_precision(
    resolution: int, img_resolution: int, num_fp16_res: int, half_dtype: str, channels_last: bool
) -> Precision:
    """Half precision for the `num_fp16_res` highest resolutions of a network.

    Raises:
        ValueError: `half_dtype` is neither 'float16' nor 'bfloat16', or `num_fp16_res` is negative.
    """
    if half_dtype not in _HALF:
        raise ValueError(f"half_dtype must be one of {', '.join(_HALF)}, got {half_dtype!r}")
    if num_fp16_res < 0:
        raise ValueError(f"num_fp16_res must not be negative, got {num_fp16_res}")
    lowest = 2 * img_resolution >> num_fp16_res
    if half_dtype == "float16":
        lowest = max(lowest, _FLOAT16_FROM)
    return Precision(_HALF[half_dtype] if resolution >= max(lowest, 1) and num_fp16_res else None, channels_last)


def bfloat16_pays(device: torch.device | str = "cpu") -> bool:
    """Whether bfloat16 is quicker than float32 on `device`, measured on a small matrix product (some 20 ms).

    A processor's flags do not tell: AVX512-bf16 alone runs at twice the speed of float32 on some and at half on others.
    """
    times = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(6):
        for dtype in times:
            a = torch.ones([384, 384], dtype=dtype, device=device)
            start = time.perf_counter()
            float((a @ a)[0, 0])
            times[dtype] = min(times[dtype], time.perf_counter() - start)
    return times[torch.bfloat16] < 0.8 * times[torch.float32]


def use_channels_last(network: nn.Module) -> None:
    """Lets every block of a network that computes in half precision use channels_last on accelerators, too."""
    for module in network.modules():
        found: Any = module
        if isinstance(getattr(found, "precision", None), Precision):
            found.precision = replace(found.precision, channels_last=True)
