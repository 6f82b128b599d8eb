"""Where to compute."""

from __future__ import annotations

import torch

from stylegan2_msp.errors import UserError


def pick_device(name: torch.device | str = "auto") -> torch.device:
    """The device that a name stands for; 'auto' is the first GPU, or the CPU where there is none.

    Raises:
        UserError: this machine cannot use it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name}: this machine's PyTorch cannot use it; try --device cpu") from None
    return device
