"""Generators and discriminators, and how to rebuild one from its recorded arguments."""

from __future__ import annotations

from typing import Any

from torch import nn

from stylegan2_msp.networks.discriminator import Discriminator
from stylegan2_msp.networks.embedding import EMBEDDINGS, register_embedding
from stylegan2_msp.networks.generator import Generator
from stylegan2_msp.networks.mapping import MappingNetwork
from stylegan2_msp.networks.points import PointDiscriminator, PointGenerator
from stylegan2_msp.networks.synthesis import SynthesisNetwork

__all__ = [
    "EMBEDDINGS",
    "Discriminator",
    "Generator",
    "MappingNetwork",
    "PointDiscriminator",
    "PointGenerator",
    "SynthesisNetwork",
    "build_network",
    "register_embedding",
]

_NETWORKS: dict[str, type[nn.Module]] = {
    "Generator": Generator,
    "Discriminator": Discriminator,
    "PointGenerator": PointGenerator,
    "PointDiscriminator": PointDiscriminator,
}


def build_network(name: str, kwargs: dict[str, Any]) -> nn.Module:
    """A fresh network of the class `name` with the arguments that an instance keeps as `init_kwargs`.

    Only the four classes here can be named, so a name read from a file cannot run anything else.

    Raises:
        ValueError: another name, or arguments that the class does not take.
    """
    if name not in _NETWORKS:
        raise ValueError(f"network must be one of {', '.join(_NETWORKS)}, got {name!r}")
    try:
        return _NETWORKS[name](**kwargs)
    except TypeError as error:
        raise ValueError(f"{name} does not take these arguments: {error}") from None
