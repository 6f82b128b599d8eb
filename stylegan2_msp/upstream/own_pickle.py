"""Reads the networks in pickles that `export --to reference` wrote, from the plain data that they are."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from stylegan2_msp.upstream.pickle_machine import Refused
from stylegan2_msp.upstream.unpickle import OwnRecord


def network_of(record: OwnRecord) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """Name, arguments and tensors; raises `Refused`."""
    try:
        kwargs = json.loads(record.init_kwargs)
        tensors = load(record.state)
        if not 0 <= int((kwargs.get("mapping_kwargs") or {}).get("num_layers", 8)) <= max(8, len(tensors)):
            raise ValueError
        return record.network, kwargs, tensors
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Refused("it holds a network of this package that is damaged") from error
