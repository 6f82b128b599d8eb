"""Where the operators are registered with torch.library, and which implementation a call takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from torch_utils_ext import kernels
from torch_utils_ext.build import KernelsUnavailable

IMPLEMENTATIONS = ("auto", "cuda", "ref")

_plain_only = False

_LIBRARY = torch.library.Library("torch_utils_ext", "FRAGMENT")


def register(
    name: str,
    schema: str,
    implementation: Callable[..., torch.Tensor],
    fake: Callable[..., torch.Tensor],
    function: Callable[..., torch.Tensor] | None = None,
) -> Any:
    """Makes ``torch.ops.torch_utils_ext.<name>`` and returns it.

    Args:
        name: of the operator.
        schema: arguments and result in torch's notation, without the name.
        implementation: computes the result on any device; must not return or change an argument.
        fake: makes an empty result of the right shape, dtype and strides.
        function: a differentiable form of the operator, used where a gradient may be asked for; it calls the operator
            through `below_autograd`. None for an operator that gives no gradient.
    """
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"torch_utils_ext::{name}", fake, lib=_LIBRARY)
    op = getattr(torch.ops.torch_utils_ext, name).default
    if function is not None:
        _LIBRARY.impl(name, _with_gradient(below_autograd(op), function), "Autograd")
    return op


def below_autograd(op: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The operator as tracers see it, for the inside of an autograd function."""

    def run(*args: Any) -> torch.Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return run


def _with_gradient(
    plain: Callable[..., torch.Tensor], function: Callable[..., torch.Tensor]
) -> Callable[..., torch.Tensor]:
    def run(*args: Any) -> torch.Tensor:
        wanted = torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in args)
        return function(*args) if wanted else plain(*args)

    return run


def check_impl(impl: str) -> None:
    """Raises ValueError for an unknown `impl`. 'cuda' is the family's word for 'auto': it, too, serves CPU tensors."""
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")


def takes_registered(x: torch.Tensor) -> bool:
    """Whether 'auto' calls the registered operator: while tracing, and where a kernel waits behind it.

    Elsewhere the same arithmetic runs as plain PyTorch, which spares small tensors the dispatcher's time.
    """
    return not _plain_only and (torch.compiler.is_compiling() or (x.is_cuda and kernels.available()))


@contextmanager
def plain_only() -> Iterator[None]:
    """Within it nothing registered is called: programs traced there run where this package is not installed."""
    global _plain_only
    before, _plain_only = _plain_only, True
    try:
        yield
    finally:
        _plain_only = before


def launch(launcher: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any) -> torch.Tensor | None:
    """The CUDA kernel's result for `x` and further arguments; None where there is no kernel to run.

    A kernel that cannot be had is tried once per process and complained of in one line; see `torch_utils_ext.kernels`.
    """
    if not x.is_cuda or x.numel() == 0 or not kernels.available():
        return None
    try:
        return launcher(x, *args)
    except KernelsUnavailable:
        return None


def wide(x: torch.Tensor) -> torch.Tensor:
    """Half precision is computed in float32 and rounded once."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """The layout that an operator's result takes from `x`."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
