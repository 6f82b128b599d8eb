"""Dropout in a frozen classifier: a few fixed masks, switched on for one forward and never otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stylegan2_msp.errors import UserError


def has_dropout(net: nn.Module) -> bool:
    """Whether the network has dropout that `dropout_masks` can switch on."""
    return any(True for _ in _layers(net))


@contextmanager
def dropout_masks(net: nn.Module, draw: int) -> Iterator[None]:
    """Within it every dropout layer applies the mask number ``draw``.

    A mask has the shape of one sample and is the same for all of them (consistent dropout, Kirsch et al. 2019), so that
    a sample's answer depends neither on its batch nor on the device, and is the same every time.

    Raises:
        UserError: the network has no dropout.
    """
    generator = torch.Generator().manual_seed(draw)
    hooks = [layer.register_forward_hook(_mask(layer.p, generator)) for layer in _layers(net)]
    if not hooks:
        raise UserError(
            "--uncertainty mutual_information: this classifier has no dropout; take '--classifier train', bring one "
            "with torch.nn.Dropout, or choose another measure"
        )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layers(net: nn.Module) -> Iterator[nn.Dropout]:
    return (module for module in net.modules() if isinstance(module, nn.Dropout) and module.p > 0)


def _mask(p: float, generator: torch.Generator) -> Callable[..., torch.Tensor]:
    def apply(layer: nn.Module, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        kept = (torch.rand(out.shape[1:], generator=generator) >= p).to(out)
        return out * (kept / (1 - p))

    return apply
