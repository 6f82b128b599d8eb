"""Compiles the CUDA sources of csrc/ at run time with NVRTC and keeps the machine code on disk."""

from __future__ import annotations


class KernelsUnavailable(RuntimeError):
    """The CUDA kernels cannot be had here; the message is one line with the reason and the remedy."""
