"""Launchers of the CUDA kernels: plain tensors in and out, no autograd."""

from __future__ import annotations


def available() -> bool:
    """Whether the CUDA kernels can be built and run on the current device; tried once per process."""
    return why_not() is None


def why_not() -> str | None:
    """None if the kernels work here, otherwise one line with the reason and the remedy."""
    return "the CUDA kernels are not written yet; the plain PyTorch operators are used"
