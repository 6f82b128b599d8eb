"""The bias_act kernels, compiled for the host, against the operator and its derivatives by autograd in float64."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_utils_ext.kernels import bias_act as kernel
from torch_utils_ext.kernels.launch import Launch
from torch_utils_ext.ops.bias_act import activation_funcs, bias_act

# Of the largest value: what rounding to the type, and forming derivatives from a rounded y, may cost.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class Case(NamedTuple):
    """Shape, axis of the bias (None: no bias), memory format, and whether tensors begin at multiples of 16 bytes."""

    shape: tuple[int, ...]
    dim: int | None = 1
    channels_last: bool = False
    aligned: bool = True


LAYOUTS = [
    Case((2, 8, 4, 16)),  # whole vectors share a bias
    Case((3, 4, 40, 77)),  # several blocks; not so
    Case((3, 5, 7, 3)),  # elements left over
    Case((2, 16, 3, 5), channels_last=True),  # vectors of biases
    Case((2, 6, 3, 5), channels_last=True),
    Case((9, 5, 20, 40), channels_last=True),
    Case((9, 16)),
    Case((4, 7), dim=-1),
    Case((3, 4, 5), dim=0),
    Case((2, 3, 4, 5), dim=2),
    Case((2, 3, 4, 5), dim=3, channels_last=True),
    Case((2, 3, 4, 5), dim=0, channels_last=True),
    Case((7,), dim=None),
    Case((2, 3, 61, 67), dim=None),
    Case((2, 8, 4, 16), aligned=False),
    Case((2, 5, 3, 7), channels_last=True, aligned=False),
    Case((1, 1, 1, 1)),
]
SETTINGS = {"alpha": 0.3, "gain": 1.7}


def plan(case: Case, dtype: torch.dtype, order: int, act: str, clamp: float | None) -> Launch:
    return kernel.launch_for(
        order,
        case.shape,
        dtype,
        case.channels_last,
        case.aligned,
        case.dim is not None and (order == 0 or act == "swish"),  # other derivatives follow from y and take no bias
        case.dim or 0,
        act,
        SETTINGS["alpha"],
        SETTINGS["gain"],
        clamp,
    )


def check(host: Any, launch: Launch, case: Case, dtype: torch.dtype, order: int, act: str, clamp: float | None) -> None:
    """One launch against the operator in float64; derivatives are zero where the y that is stored has reached clamp."""
    memory = torch.channels_last if case.channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    x, first, second = (
        torch.randn(case.shape, generator=generator, dtype=torch.float64).to(dtype).contiguous(memory_format=memory)
        for _ in range(3)
    )
    b = None if case.dim is None else torch.randn(case.shape[case.dim], generator=generator).to(dtype)
    exact = x.double().requires_grad_()
    args = (None if b is None else b.double(), case.dim or 0, act, SETTINGS["alpha"], SETTINGS["gain"])
    y = bias_act(exact, *args, clamp, impl="ref")
    out = torch.full_like(x, float("nan"))
    if order == 0:
        host.run(launch, x, None, None, b, out)
        expected = y.detach()
    else:
        stored = y.detach().to(dtype)
        seen = x if act == "swish" else stored
        host.run(launch, first, second if order == 2 else None, seen, b if act == "swish" else None, out)
        free = bias_act(exact, *args, None, impl="ref")
        dy = first if order == 1 else second
        (expected,) = torch.autograd.grad(free, exact, dy.double(), create_graph=order == 2)
        if order == 2:
            (expected,) = torch.autograd.grad(expected, exact, first.double())
        if clamp is not None:
            reached = free.detach().abs() >= clamp if act == "swish" else stored.abs() >= torch.tensor(clamp).to(dtype)
            expected = expected.masked_fill(reached, 0)
    error = (out.double() - expected.detach()).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error <= TOLERANCE[dtype], (case, dtype, order, act, clamp, launch.defines)


@pytest.mark.slow
def test_activations_and_their_derivatives(on_host: Any) -> None:
    """All activations, orders and with or without clamp, in float64 and as halves."""
    bent = [act for act in activation_funcs if act not in ("linear", "relu", "lrelu")]
    wanted = [
        (case, dtype, order, act, clamp)
        for dtype, case in ((torch.float64, LAYOUTS[1]), (torch.float16, LAYOUTS[4]))
        for order, acts in ((0, activation_funcs), (1, activation_funcs), (2, bent))
        for act in acts
        for clamp in (None, 0.7)
    ]
    launches = [plan(*want) for want in wanted]
    host = on_host(launches)
    for launch, want in zip(launches, wanted, strict=True):
        check(host, launch, *want)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_layouts(on_host: Any, dtype: torch.dtype) -> None:
    """All ways of finding the bias, tails, several blocks, unaligned tensors; also with 64-bit division throughout."""
    wanted = [(case, dtype, order, act, 0.7) for case in LAYOUTS for order, act in ((0, "lrelu"), (1, "swish"))]
    launches = [plan(*want) for want in wanted]
    if dtype == torch.float32:
        wide = [
            replace(launch, defines=tuple((k, "1" if k == "K_WIDE" else v) for k, v in launch.defines))
            for launch in launches
        ]
        wanted, launches = wanted * 2, launches + wide
    host = on_host(launches)
    for launch, want in zip(launches, wanted, strict=True):
        check(host, launch, *want)


def test_special_values(on_host: Any) -> None:
    """NaN stays NaN through activation and clamp; a clamped place has zero gradient even for an infinite one."""
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.5], dtype=torch.float32)
    case = Case((4,), dim=None)
    acts = list(activation_funcs)
    launches = [plan(case, torch.float32, 0, act, 0.7) for act in acts]
    backward = plan(case, torch.float32, 1, "relu", 0.7)
    host = on_host([*launches, backward])
    for act, launch in zip(acts, launches, strict=True):
        y = torch.empty(4)
        host.run(launch, values, None, None, None, y)
        torch.testing.assert_close(
            y, bias_act(values, None, 0, act, *SETTINGS.values(), 0.7, impl="ref"), equal_nan=True
        )
    dx = torch.empty(4)
    host.run(backward, torch.full([4], float("inf")), None, torch.tensor([0.7, -0.7, 0.8, 0.0]), None, dx)
    assert dx[:3].tolist() == [0, 0, 0]


def test_second_derivatives_at_zero_are_pytorch_s(on_host: Any) -> None:
    """Where 'elu' and 'selu' have a kink; halves meet it often, since x + b is often exactly zero."""
    x = torch.tensor([0.0, -0.0, 0.0, -1.0], requires_grad=True)
    ones, case = torch.ones(4), Case((4,), dim=None)
    launches = {act: plan(case, torch.float32, 2, act, None) for act in ("elu", "selu")}
    host = on_host(list(launches.values()))
    for act, launch in launches.items():
        y = bias_act(x, None, 0, act, *SETTINGS.values(), None, impl="ref")
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (expected,) = torch.autograd.grad(slope.sum(), x)
        found = torch.empty(4)
        host.run(launch, ones, ones, y.detach(), None, found)
        torch.testing.assert_close(found, expected)
        assert expected[:3].tolist() == [0, 0, 0]
        y = bias_act(x, None, 0, act, *SETTINGS.values(), None)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        torch.testing.assert_close(torch.autograd.grad(slope.sum(), x)[0], expected)


def test_index_of_bias_beyond_32_bits(on_host: Any) -> None:
    """The bias's number for elements of tensors far too large to test with."""
    extra = """
    extern "C" u32 find_bias(i64 start, u32 offset, i64 step, u32 step_factor, u32 step_shift, i64 size,
                             u32 size_factor, u32 size_shift, int wide) {
        i64 inside;
        if (wide) {
            const in_kernel_0::BiasIndex<1> index = {step, size, {}, {}};
            return index.find(start, index.base(start), offset, &inside);
        }
        const in_kernel_0::BiasIndex<0> index = {
            step, size, {(u32)step, step_factor, step_shift}, {(u32)size, size_factor, size_shift}};
        return index.find(start, index.base(start), offset, &inside);
    }
    """
    find = on_host([plan(LAYOUTS[0], torch.float32, 0, "linear", None)], extra).library.find_bias
    long, word = ctypes.c_longlong, ctypes.c_uint
    generator = torch.Generator().manual_seed(1)
    for step, size in ((1, 512), (4225, 512), (2**20, 2**10), (7, 3), (65536, 32767), (2**24, 300), (2**32, 3)):
        wide = step * size >= kernel._WIDE
        for bits in (10, 31, 32, 40):
            start = int(torch.randint(2**bits, (), generator=generator))
            offset = int(torch.randint(8192, (), generator=generator))
            step_divisor, size_divisor = kernel._divisor(step), kernel._divisor(size)
            got = find(
                long(start),
                word(offset),
                long(step),
                *map(word, step_divisor),
                long(size),
                *map(word, size_divisor),
                ctypes.c_int(wide),
            )
            assert got == (start + offset) // step % size


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_division_by_multiplication(value: int, number: int) -> None:
    """`_divisor` for all divisors; also just below, at and above multiples."""
    factor, shift = kernel._divisor(value)
    assert factor < 2**32
    for n in (number, number // value * value, max(number // value * value - 1, 0), 2**31 - 1):
        assert ((n * factor >> 32) + n) >> shift == n // value
