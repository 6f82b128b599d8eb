"""Dropout in a frozen classifier: a few fixed masks, switched on for one forward and never otherwise."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
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
    a sample's answer depends neither on its batch nor on the device, and is the same every time. What other threads ask
    of the network meanwhile has none of these masks.

    Raises:
        UserError: the network has no dropout.
    """
    shapes: dict[nn.Dropout, torch.Size] = {}  # of the layers so far
    asked_by = get_ident()

    def mask(layer: nn.Dropout, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        if get_ident() != asked_by:
            return out
        if layer in shapes:  # the next pass: a program of a fixed batch size takes several
            shapes.clear()
        shapes[layer] = out.shape[1:]
        return out * _mask(draw, tuple(shapes.values()), layer.p, out.dtype, out.device)

    hooks = [layer.register_forward_hook(mask) for layer in _layers(net)]
    if not hooks:
        raise UserError(
            "--uncertainty mutual_information: this classifier has no dropout that can be drawn (torch.nn.Dropout; not "
            "Dropout2d and the like); take '--classifier train', bring one with it, or choose another measure"
        )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layers(net: nn.Module) -> Iterator[nn.Dropout]:
    return (module for module in net.modules() if isinstance(module, nn.Dropout) and module.p > 0)


@functools.lru_cache(maxsize=1024)  # 20 draws of many layers
def _mask(
    draw: int, shapes: tuple[torch.Size, ...], p: float, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Of the last of the layers with these shapes: 0 with probability p, else 1 / (1 - p).

    Kept on the device, so that training need not wait for it in every step.
    """
    generator = torch.Generator().manual_seed(draw)
    with torch.inference_mode(False):
        numbers = [torch.rand(shape, generator=generator, dtype=torch.float32) for shape in shapes][-1]
        return (numbers >= p).to(device, dtype) / (1 - p)
