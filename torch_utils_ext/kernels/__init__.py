"""Launchers of the CUDA kernels: plain CUDA tensors in and out, no autograd.

A launcher raises `torch_utils_ext.build.KernelsUnavailable` when its kernel cannot be built or loaded; this is tried
once per process, said in one line, and from then on `available` is False.
"""

from __future__ import annotations

from torch_utils_ext.kernels import launch


def available() -> bool:
    """Whether the CUDA kernels can be built and run on the current device; tried once per process."""
    return launch.why_not() is None


def why_not() -> str | None:
    """None if the kernels work here, otherwise one line with the reason and the remedy."""
    return launch.why_not()
