"""StyleGAN2-ADA conditioned on class and classifier confidence (maximum softmax probability, MSP)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylegan2_msp.classifiers import FrozenClassifier
    from stylegan2_msp.generation import load_generator

__version__ = "0.1.0"
__all__ = ["FrozenClassifier", "load_generator"]

_HOMES = {"FrozenClassifier": "stylegan2_msp.classifiers", "load_generator": "stylegan2_msp.generation"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for, so that importing the package stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
