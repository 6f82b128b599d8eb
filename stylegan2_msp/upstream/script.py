"""What the patched scripts of a checkout import: stand-ins that also run on CPUs, and the options of the condition."""

from __future__ import annotations

from stylegan2_msp.upstream.asking import Asked, class_option, level_options
from stylegan2_msp.upstream.compat import torch_of_the_loop
from stylegan2_msp.upstream.stand_ins import PIL_HERE as PIL
from stylegan2_msp.upstream.stand_ins import torch_here
from stylegan2_msp.upstream.train_options import Condition, condition_options

__all__ = ["PIL", "Asked", "Condition", "class_option", "condition_options", "level_options", "loop_torch", "torch"]

torch = torch_here()
loop_torch = torch_of_the_loop()
