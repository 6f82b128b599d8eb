"""Convolution whose gradients of every order are convolutions again.

PyTorch's own second derivative makes the weight's gradient as a convolution with image-sized kernels over transposed
copies, which is slow on CPUs and GPUs alike; R1 and path length regularisation live on second derivatives.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

_Pair = tuple[int, int]


class _Settings(NamedTuple):
    stride: _Pair
    padding: _Pair
    output_padding: _Pair
    groups: int
    transposed: bool


def conv2d(x: torch.Tensor, w: torch.Tensor, stride: int = 1, padding: _Pair = (0, 0), groups: int = 1) -> torch.Tensor:
    """`torch.nn.functional.conv2d` of x [N, C, H, W] with w [O, C / groups, kh, kw], quick to differentiate twice."""
    return _run(x, w, _Settings((stride, stride), padding, (0, 0), groups, False))


def conv_transpose2d(
    x: torch.Tensor, w: torch.Tensor, stride: int = 1, padding: _Pair = (0, 0), groups: int = 1
) -> torch.Tensor:
    """`torch.nn.functional.conv_transpose2d` of x [N, C, H, W] with w [C, O / groups, kh, kw], likewise."""
    return _run(x, w, _Settings((stride, stride), padding, (0, 0), groups, True))


def _run(x: torch.Tensor, w: torch.Tensor, how: _Settings) -> torch.Tensor:
    # Tracers differentiate PyTorch's own operator; they could not follow `_asked_for`.
    own = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return _Convolution.apply(x, w, how) if own else _convolve(x, w, how)


def _convolve(x: torch.Tensor, w: torch.Tensor, how: _Settings) -> torch.Tensor:
    return torch.convolution(
        x, w, None, how.stride, how.padding, (1, 1), how.transposed, how.output_padding, how.groups
    )


def _gradients(
    grad: torch.Tensor, x: torch.Tensor, w: torch.Tensor, how: _Settings, wanted: tuple[bool, bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of the convolution for its input and its weight, as far as wanted."""
    found = torch.ops.aten.convolution_backward(
        grad,
        x,
        w,
        None,
        how.stride,
        how.padding,
        (1, 1),
        how.transposed,
        how.output_padding,
        how.groups,
        (*wanted, False),
    )
    return (found[0] if wanted[0] else None), (found[1] if wanted[1] else None)


def _adjoint(how: _Settings, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> _Settings:
    """The convolution that carries gradients of the result `y` back to the input `x`."""
    rest = [0, 0]
    if not how.transposed:
        # The last rows and columns that a strided convolution does not reach.
        for i in range(2):
            reach = (y.shape[2 + i] - 1) * how.stride[i] + w.shape[2 + i] - 2 * how.padding[i]
            rest[i] = x.shape[2 + i] - reach
    return how._replace(output_padding=(rest[0], rest[1]), transposed=not how.transposed)


def _asked_for(node: Any) -> tuple[bool, bool]:
    """Which of a node's first two gradients this backward pass uses: `autograd.grad` may want only one of them."""
    wanted = [False, False]
    for i, (follower, _) in enumerate(node.next_functions[:2]):
        if node.needs_input_grad[i]:
            try:
                wanted[i] = torch._C._will_engine_execute_node(follower)
            except (AttributeError, RuntimeError):  # not told, as for a leaf that autograd.grad was asked for
                wanted[i] = True
    return wanted[0], wanted[1]


class _Convolution(torch.autograd.Function):
    """Bilinear in input and weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, how: _Settings) -> torch.Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = how
        return _convolve(x, w, how)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        x, w = ctx.saved_tensors
        how: _Settings = ctx.how
        for_x, for_w = _asked_for(ctx)
        if not torch.is_grad_enabled():
            return (*_gradients(grad, x, w, how, (for_x, for_w)), None)
        grad_x = _Convolution.apply(grad, w, _adjoint(how, x, grad, w)) if for_x else None
        grad_w = _WeightGradient.apply(grad, x, w.detach(), how) if for_w else None
        return grad_x, grad_w, None


class _WeightGradient(torch.autograd.Function):
    """Bilinear in the result's gradient and the input; `w` lends its shape."""

    @staticmethod
    def forward(ctx: Any, grad: torch.Tensor, x: torch.Tensor, w: torch.Tensor, how: _Settings) -> torch.Tensor | None:
        ctx.save_for_backward(grad, x)
        ctx.how = how
        return _gradients(grad, x, w, how, (False, True))[1]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = grads
        grad, x = ctx.saved_tensors
        how: _Settings = ctx.how
        for_grad, for_x = _asked_for(ctx)
        grad_grad = _Convolution.apply(x, weight, how) if for_grad else None
        grad_x = _Convolution.apply(grad, weight, _adjoint(how, x, grad, weight)) if for_x else None
        return grad_grad, grad_x, None, None
