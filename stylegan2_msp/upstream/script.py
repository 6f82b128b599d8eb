"""What the patched scripts of a checkout import: stand-ins that also run on CPUs, and the options of the condition."""

from __future__ import annotations

import os

from stylegan2_msp.upstream.asking import Asked, class_option, level_options
from stylegan2_msp.upstream.compat import CPU_LOOP
from stylegan2_msp.upstream.stand_ins import PIL_HERE as PIL
from stylegan2_msp.upstream.stand_ins import torch_here
from stylegan2_msp.upstream.train_options import Condition, condition_options

__all__ = ["PIL", "Asked", "Condition", "class_option", "condition_options", "level_options", "loop_torch", "torch"]

torch = torch_here()


def _loop_torch() -> object:
    """torch itself; the tests' stand-in under `compat.CPU_LOOP`."""
    if os.environ.get(CPU_LOOP) != "1":
        import torch as real

        return real
    from stylegan2_msp.upstream.cpu_loop import torch_for_loop

    return torch_for_loop()


loop_torch = _loop_torch()
