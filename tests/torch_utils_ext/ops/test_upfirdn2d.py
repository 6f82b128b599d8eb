"""upfirdn2d against golden arrays, scipy's own upfirdn and its slow reference, with two orders of gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from torch_utils_ext.ops import library
from torch_utils_ext.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "upfirdn2d.npz")
TAPS = [1, 3, 3, 1]


def _golden(case):
    arrays = {name.split(".", 1)[1]: GOLDEN[name] for name in GOLDEN.files if name.startswith(f"{case}.")}
    f = torch.from_numpy(arrays["f"]) if "f" in arrays else None
    options = {name: np.atleast_1d(arrays[name]).tolist() for name in ("up", "down", "padding")}
    options = {name: value if len(value) > 1 else value[0] for name, value in options.items()}
    options.update(flip_filter=bool(arrays["flip_filter"]), gain=float(arrays["gain"]))
    return arrays, f, options


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("case", range(int(GOLDEN["n_cases"])))
def test_golden_values_and_gradients(case, layout, impl):
    arrays, f, options = _golden(case)
    x = torch.from_numpy(arrays["x"])
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.stack([x, x + 1], dim=-1)[..., 0]
    x = x.requires_grad_(True)
    y = upfirdn2d(x, f, impl=impl, **options)
    (grad_x,) = torch.autograd.grad(y, x, torch.from_numpy(arrays["grad_y"]))
    np.testing.assert_allclose(y.detach().numpy(), arrays["y"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grad_x.numpy(), arrays["grad_x"], rtol=1e-5, atol=1e-5)


def _scipy_upfirdn2d(image, f, up, down, padding, flip_filter):
    """One image by scipy: full convolution of the upsampled image, then the pad that was asked for."""
    left, right, top, bottom = padding
    f = f[::-1, ::-1] if flip_filter else f
    rows = [scipy.signal.upfirdn([1], row, up=up[0]) for row in image]
    spread = np.stack([scipy.signal.upfirdn([1], column, up=up[1]) for column in np.stack(rows).T]).T
    spread = np.pad(
        spread, [(0, image.shape[0] * up[1] - spread.shape[0]), (0, image.shape[1] * up[0] - spread.shape[1])]
    )
    spread = np.pad(spread, [(max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))])
    height, width = spread.shape
    spread = spread[max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
    return scipy.signal.convolve2d(spread, f, mode="valid")[:: down[1], :: down[0]]


def _registered(*args, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "takes_registered", lambda x: True)
        return upfirdn2d(*args, **options)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    taps=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    up=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    down=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(-4, 5)] * 4),
    flip_filter=st.booleans(),
    seed=st.integers(0, 99),
    registered=st.booleans(),
)
def test_any_arguments_agree_with_scipy(size, taps, up, down, padding, flip_filter, seed, registered):
    spread = (size[1] * up[0], size[0] * up[1])
    room = (spread[0] + padding[0] + padding[1], spread[1] + padding[2] + padding[3])
    assume(min(padding[:2]) + spread[0] > 0 and min(padding[2:]) + spread[1] > 0)  # no side crops all there is
    rng = np.random.default_rng(seed)
    x, f = rng.standard_normal((2, 3, *size)), rng.standard_normal(taps)
    for impl in ("auto", "ref"):
        operator = _registered if registered and impl == "auto" else upfirdn2d
        call = [torch.from_numpy(x), torch.from_numpy(f), up, down, padding, flip_filter, 1.5]
        if room[0] < taps[1] or room[1] < taps[0]:
            with pytest.raises(ValueError, match="smaller than"):
                operator(*call, impl=impl)
            continue
        y = operator(*call, impl=impl).numpy()
        expected = [[_scipy_upfirdn2d(image, f, up, down, padding, flip_filter) for image in sample] for sample in x]
        np.testing.assert_allclose(y, 1.5 * np.array(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2, 3])
def test_separable_filters_agree_with_scipy_along_an_axis(up, down):
    rng = np.random.default_rng(0)
    x, taps = rng.standard_normal([1, 1, 1, 20]), rng.standard_normal(9)
    full = scipy.signal.upfirdn(taps, x[0, 0, 0], up=up)
    padding = [len(taps) - 1, len(taps) - up, 0, 0]
    y = upfirdn2d(torch.from_numpy(x), torch.from_numpy(taps)[None], up=[up, 1], down=[down, 1], padding=padding)
    np.testing.assert_allclose(y[0, 0, 0].numpy(), full[::down], atol=1e-12)


@pytest.mark.parametrize("taps", [[1, 3, 3, 1], [1, 2, 3, 4, 5, 6, 5, 4, 2]])
def test_a_separable_filter_is_its_outer_product(taps):
    x = torch.randn([2, 2, 11, 13], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    line, square = setup_filter(taps, separable=True, gain=3), setup_filter(taps, separable=False, gain=3)
    assert line.ndim == 1
    assert square.ndim == 2
    options = {"up": (2, 1), "down": (1, 2), "padding": (3, 4, 5, 6), "gain": 1.7}
    for impl in ("auto", "ref"):
        one, other = (upfirdn2d(x, f.double(), impl=impl, **options) for f in (line, square))
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("up", "down", "padding"), [(1, 1, 1), (2, 1, [2, 1, 2, 1]), (1, 2, 1), ([1, 2], [2, 3], [-1, 2, 3, -2])]
)
def test_first_and_second_gradients(up, down, padding, channels_last, impl):
    x = torch.randn([1, 2, 4, 5], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_(True)
    f = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(4, 3)

    def run(x):
        return upfirdn2d(x, f, up=up, down=down, padding=padding, gain=0.1, impl=impl)

    assert torch.autograd.gradcheck(run, [x])
    assert torch.autograd.gradgradcheck(run, [x])


def test_gradients_of_a_separable_filter(impl):
    x = torch.randn([1, 1, 5, 4], dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    f = torch.arange(1.0, 10.0, dtype=torch.float64) / 45

    def run(x):
        return upfirdn2d(x, f, up=(2, 1), down=(1, 2), padding=(7, 6, 5, 6), gain=2, impl=impl)

    assert torch.autograd.gradcheck(run, [x])
    assert torch.autograd.gradgradcheck(run, [x])


# Largest error of values and gradients, relative to the largest value, against the slow reference in float64.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("taps", [4, 12])
def test_derivatives_in_every_dtype(taps, layout, dtype, impl):
    x = torch.randn([2, 3, 12, 10], generator=torch.Generator().manual_seed(0)).to(dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.stack([x, x], dim=-1)[..., 0]
    f, options = setup_filter(np.hamming(taps)), {"up": 2, "padding": [5, -1, 6, 4], "gain": 4}

    def derivatives(x, f, impl):
        x = x.requires_grad_(True)
        y = upfirdn2d(x, f, impl=impl, **options)
        (dx,) = torch.autograd.grad((y**3).sum() / 3, x, create_graph=True)
        return [y, dx, torch.autograd.grad((dx * x.detach()).sum(), x)[0]]

    expected = derivatives(x.detach().double(), f.double(), "ref")
    for found, wanted in zip(derivatives(x, f, impl), expected, strict=True):
        assert found.dtype == dtype
        assert (found.double() - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"up": 2, "padding": [2, 1, 2, 1], "gain": 4}, {"down": 2, "padding": 1}]
)
def test_keeps_dtype_and_memory_format_in_both_directions(options, memory_format, dtype):
    x = torch.randn([2, 8, 8, 8], generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.contiguous(memory_format=memory_format).requires_grad_(True)
    f = setup_filter(TAPS)
    y = upfirdn2d(x, f, **options)
    (grad_x,) = torch.autograd.grad(y, x, torch.ones_like(y))
    for result in (y, grad_x):
        assert result.dtype == dtype
        assert result.is_contiguous(memory_format=memory_format)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    expected = upfirdn2d(x.detach().double(), f.double(), impl="ref", **options)
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [[0, 3, 8, 8], [2, 0, 8, 8]])
def test_empty_batches(shape, impl):
    x = torch.zeros(shape, requires_grad=True)
    y = upfirdn2d(x, setup_filter(TAPS), up=2, padding=[2, 1, 2, 1], impl=impl)
    assert list(y.shape) == [*shape[:2], 16, 16]
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_resizing_keeps_constants_and_sizes():
    x = torch.full([1, 2, 12, 8], 0.7)
    for f in (setup_filter(TAPS), setup_filter([1, 2, 1]), setup_filter(list(range(1, 10)))):
        assert upsample2d(x, f).shape == (1, 2, 24, 16)
        assert upsample2d(x, f, up=[3, 1]).shape == (1, 2, 12, 24)
        assert downsample2d(x, f).shape == (1, 2, 6, 4)
        assert downsample2d(x, f, down=[1, 4]).shape == (1, 2, 3, 8)
        assert filter2d(x, f).shape == x.shape
        assert filter2d(x, f, padding=-1).shape == (1, 2, 10, 6)
    middle = (slice(None), slice(None), slice(4, -4), slice(3, -3))
    f = setup_filter(TAPS)
    for y in (upsample2d(x, f), filter2d(x, f)):
        torch.testing.assert_close(y[middle], torch.full_like(y[middle], 0.7))
    torch.testing.assert_close(downsample2d(x, f)[:, :, 1:-1, 1:-1], torch.full([1, 2, 4, 2], 0.7))


def test_no_filter_upsampling_inserts_zeros():
    x = torch.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    expected = torch.tensor([[1.0, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])
    assert torch.equal(upfirdn2d(x, None, up=2)[0, 0], expected)


def test_setup_filter():
    f = setup_filter(TAPS)
    assert f.shape == (4, 4)
    assert f.dtype == torch.float32
    assert float(f.sum()) == 1
    assert torch.equal(setup_filter(None), torch.ones(1, 1))
    assert torch.equal(setup_filter(2.0, normalize=False), torch.full([1, 1], 4.0))
    assert setup_filter(np.arange(1, 9)).ndim == 1
    assert torch.equal(
        setup_filter([1, 2], separable=True, normalize=False, flip_filter=True), torch.tensor([2.0, 1.0])
    )
    assert float(setup_filter(TAPS, gain=4).sum()) == 4
    assert float(setup_filter(TAPS, gain=4, separable=True).sum()) == 2


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: upfirdn2d(torch.zeros(3, 4, 4), None), "N, C, H, W"),
        (
            lambda: upfirdn2d(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), None),
            "floating-point numbers",
        ),
        (lambda: upfirdn2d(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 1)), "f must have shape"),
        (lambda: upfirdn2d(torch.zeros(1, 1, 4, 4), None, up=0), "up must be"),
        (lambda: upfirdn2d(torch.zeros(1, 1, 4, 4), None, down=[1, 2, 3]), "down must be"),
        (lambda: upfirdn2d(torch.zeros(1, 1, 4, 4), None, padding=[1, 2, 3]), "padding must be"),
        (lambda: upfirdn2d(torch.zeros(1, 1, 2, 2), torch.ones(3, 3)), "smaller than the 3x3 filter"),
        (lambda: upfirdn2d(torch.zeros(1, 1, 2, 2), None, impl="fast"), "impl must be"),
        (lambda: setup_filter([]), "at least one tap"),
        (lambda: setup_filter([1, -1]), "sum to zero"),
        (lambda: setup_filter(np.ones([2, 2]), separable=True), "cannot be kept separable"),
    ],
)
def test_wrong_arguments_are_named(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("padding", [(-5, 9, 0, 0), (9, -5, 1, -1), (12, -9, -6, 14), (-8, 12, 3, 3)])
def test_a_crop_may_be_larger_than_the_image(up, down, padding, impl):
    """Where the other side grows; forward, gradient and its gradient."""
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    f = setup_filter(TAPS).double()
    y = upfirdn2d(x, f, up=up, down=down, padding=padding, impl=impl)
    for row, image in zip(y[0], x[0], strict=True):
        wanted = _scipy_upfirdn2d(image.detach().numpy(), f.numpy(), (up, up), (down, down), padding, False)
        np.testing.assert_allclose(row.detach().numpy(), wanted, atol=1e-12)
    assert torch.autograd.gradcheck(lambda t: upfirdn2d(t, f, up=up, down=down, padding=padding, impl=impl), (x,))
