"""Pad, upsample, FIR-filter and downsample batches of images in one differentiable operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from torch_utils_ext.kernels import upfirdn2d as launchers
from torch_utils_ext.ops import library
from torch_utils_ext.ops.library import wide

Factor = int | Sequence[int]
Padding = int | Sequence[int]
_Pair = tuple[int, int]
_Quad = tuple[int, int, int, int]

# A separable filter of few taps is quicker as one small 2-D convolution than as two passes over memory.
_MAX_OUTER_TAPS = 5
# From this many taps on, `setup_filter` keeps a 1-D filter separable unless told otherwise.
_MIN_SEPARABLE_TAPS = 8


def setup_filter(
    f: torch.Tensor | np.ndarray | Sequence[Any] | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Prepares a FIR filter for `upfirdn2d`.

    Args:
        f: taps [n] of a separable filter, or a 2-D filter [h, w], or a scalar; None is the identity.
        device: where the result lives.
        normalize: scale the taps to sum to one, so that constant images keep their value.
        flip_filter: reverse the taps.
        gain: overall factor on the signal's amplitude.
        separable: keep a 1-D filter 1-D; None keeps it so from 8 taps on and makes shorter ones 2-D.

    Returns:
        float32 filter, [n] if separable, otherwise [h, w].

    Raises:
        ValueError: the filter is empty, has more than two dimensions, is asked to be separable but is 2-D, or is to be
            normalised and its taps sum to zero.
    """
    taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device=device).detach()
    if taps.ndim == 0:
        taps = taps[None]
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"a filter must have shape [n] or [h, w] with at least one tap, got {tuple(taps.shape)}")
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= _MIN_SEPARABLE_TAPS
    if separable and taps.ndim == 2:
        raise ValueError(f"a filter of shape {tuple(taps.shape)} cannot be kept separable; give its 1-D taps")
    if taps.ndim == 1 and not separable:
        taps = torch.outer(taps, taps)
    if normalize:
        if taps.sum() == 0:
            raise ValueError("taps that sum to zero cannot be scaled to sum to one; give normalize=False")
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(tuple(range(taps.ndim)))
    return taps * gain ** (taps.ndim / 2)


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Factor = 1,
    down: Factor = 1,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Upsamples by inserting zeros, pads, convolves with a FIR filter and keeps every `down`-th pixel.

    For every channel by itself, along each axis: ``up - 1`` zeros after each sample; `padding` zeros at both ends
    (negative crops); true convolution with `f` where it overlaps fully; samples 0, down, 2 down, ...
    Differentiable any number of times with respect to `x`, not to `f`. The memory format of `x` is kept.

    Args:
        x: images [N, C, H, W], any floating dtype.
        f: filter from `setup_filter`: [h, w], or [n] for a separable one (applied along both axes); None: identity.
        up: integer upsampling factor, or [x, y].
        down: integer downsampling factor, or [x, y].
        padding: zeros relative to the upsampled image: one number, [x, y], or [left, right, top, bottom].
        flip_filter: False convolves, True correlates.
        gain: factor on the output.
        impl: 'auto' (or 'cuda', the family's word for it) is the quick one, 'ref' the plain and slow one.

    Returns:
        Images [N, C, (H up + top + bottom - h + down) // down, likewise W], same dtype as `x`.

    Raises:
        ValueError: wrong rank of `x` or `f`, `x` of whole numbers, factors below one, or a padded image smaller than
            the filter.
    """
    if not x.is_floating_point():
        raise ValueError(f"x must hold floating-point numbers, got {x.dtype}")
    if x.ndim != 4:
        raise ValueError(f"x must have shape [N, C, H, W], got {tuple(x.shape)}")
    if f is None:
        f = x.new_ones([1, 1], dtype=torch.float32)
    if f.ndim not in (1, 2):
        raise ValueError(f"f must have shape [n] or [h, w], got {tuple(f.shape)}")
    ups, downs, pads = _parse_factor(up, "up"), _parse_factor(down, "down"), _parse_padding(padding)
    library.check_impl(impl)
    if impl == "ref":
        return _upfirdn2d_ref(x, f, ups, downs, pads, flip_filter, gain)
    if library.takes_registered(x):
        return _UPFIRDN2D(x, f, ups, downs, pads, flip_filter, gain)
    if torch.is_grad_enabled() and x.requires_grad:
        return _UpFirDn.apply(x, f, ups, downs, pads, flip_filter, gain, False)
    return _plain(x, f, ups, downs, pads, flip_filter, gain)


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Filters images [N, C, H, W] and keeps their size; `padding` is extra, relative to that. See `upfirdn2d`."""
    fw, fh = _filter_size(f)
    around = _add(padding, (fw // 2, (fw - 1) // 2, fh // 2, (fh - 1) // 2))
    return upfirdn2d(x, f, padding=around, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: Factor = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Enlarges images [N, C, H, W] to [N, C, H up, W up], keeping brightness; `padding` is extra. See `upfirdn2d`."""
    ux, uy = _parse_factor(up, "up")
    fw, fh = _filter_size(f)
    around = _add(padding, ((fw + ux - 1) // 2, (fw - ux) // 2, (fh + uy - 1) // 2, (fh - uy) // 2))
    return upfirdn2d(x, f, up=(ux, uy), padding=around, flip_filter=flip_filter, gain=gain * ux * uy, impl=impl)


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: Factor = 2,
    padding: Padding = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> torch.Tensor:
    """Shrinks images [N, C, H, W] to [N, C, H / down, W / down]; `padding` is extra, before it. See `upfirdn2d`."""
    dx, dy = _parse_factor(down, "down")
    fw, fh = _filter_size(f)
    around = _add(padding, ((fw - dx + 1) // 2, (fw - dx) // 2, (fh - dy + 1) // 2, (fh - dy) // 2))
    return upfirdn2d(x, f, down=(dx, dy), padding=around, flip_filter=flip_filter, gain=gain, impl=impl)


def _parse_factor(factor: Factor, name: str) -> _Pair:
    pair = (factor, factor) if isinstance(factor, int) else tuple(int(v) for v in factor)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name} must be a positive integer or a pair of them, got {factor!r}")
    return pair[0], pair[1]


def _parse_padding(padding: Padding) -> _Quad:
    given = (padding, padding) if isinstance(padding, int) else tuple(int(v) for v in padding)
    if len(given) == 2:
        given = (given[0], given[0], given[1], given[1])
    if len(given) != 4:
        raise ValueError(f"padding must be one integer, [x, y] or [left, right, top, bottom], got {padding!r}")
    return given[0], given[1], given[2], given[3]


def _add(padding: Padding, own: _Quad) -> list[int]:
    """What the caller asks for on top of what keeps the images in place."""
    return [extra + size for extra, size in zip(_parse_padding(padding), own, strict=True)]


def _filter_size(f: torch.Tensor | None) -> _Pair:
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def _output_size(x: torch.Tensor, size: _Pair, up: _Pair, down: _Pair, padding: _Quad) -> _Pair:
    """Width and height of the result for a filter of `size` (width, height)."""
    width = (x.shape[3] * up[0] + padding[0] + padding[1] - size[0] + down[0]) // down[0]
    height = (x.shape[2] * up[1] + padding[2] + padding[3] - size[1] + down[1]) // down[1]
    if width < 1 or height < 1:
        raise ValueError(
            f"images of {x.shape[2]}x{x.shape[3]} with up={up}, padding={padding} are smaller than the "
            f"{size[1]}x{size[0]} filter"
        )
    return width, height


def _upfirdn2d_ref(
    x: torch.Tensor, f: torch.Tensor, up: _Pair, down: _Pair, padding: _Quad, flip_filter: bool, gain: float
) -> torch.Tensor:
    """The definition, literally: one shifted, weighted copy of the padded image per filter tap."""
    dtype, x = x.dtype, wide(x)
    f = f.to(x.dtype)
    f = (torch.outer(f, f) if f.ndim == 1 else f) * gain
    n, c, h, w = x.shape
    fh, fw = f.shape
    out_w, out_h = _output_size(x, (fw, fh), up, down, padding)
    spread = x.new_zeros([n, c, h, up[1], w, up[0]])
    spread[:, :, :, 0, :, 0] = x
    padded = _pad(spread.reshape(n, c, h * up[1], w * up[0]), padding)
    y = x.new_zeros([n, c, out_h, out_w])
    for i in range(fh):
        for j in range(fw):
            tap = f[i, j] if flip_filter else f[fh - 1 - i, fw - 1 - j]
            rows = slice(i, i + (out_h - 1) * down[1] + 1, down[1])
            columns = slice(j, j + (out_w - 1) * down[0] + 1, down[0])
            y = y + tap * padded[:, :, rows, columns]
    return y.to(dtype)


def _pad(x: torch.Tensor, padding: _Quad) -> torch.Tensor:
    """F.pad that grows before it crops: a side may be cropped by more than the image, if the other one grows."""
    if min(padding) < 0 < max(padding):
        return F.pad(F.pad(x, [max(p, 0) for p in padding]), [min(p, 0) for p in padding])
    return F.pad(x, padding)


class _UpFirDn(torch.autograd.Function):
    """The gradient of the operator is the operator with `up` and `down` exchanged and the filter turned round."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        f: torch.Tensor,
        up: _Pair,
        down: _Pair,
        padding: _Quad,
        flip_filter: bool,
        gain: float,
        registered: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(f)
        ctx.settings = (up, down, padding, flip_filter, gain, registered)
        y = (_upfirdn2d_below if registered else _plain)(x, f, up, down, padding, flip_filter, gain)
        ctx.sizes = (x.shape[3], x.shape[2], y.shape[3], y.shape[2])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if not ctx.needs_input_grad[0]:
            return (None,) * 8
        (f,) = ctx.saved_tensors
        up, down, padding, flip_filter, gain, registered = ctx.settings
        in_w, in_h, out_w, out_h = ctx.sizes
        fw, fh = _filter_size(f)
        back = (
            fw - 1 - padding[0],
            in_w * up[0] - out_w * down[0] + padding[0] - up[0] + 1,
            fh - 1 - padding[2],
            in_h * up[1] - out_h * down[1] + padding[2] - up[1] + 1,
        )
        return _UpFirDn.apply(grads[0], f, down, up, back, not flip_filter, gain, registered), *(None,) * 7


def _operator(
    x: torch.Tensor, f: torch.Tensor, up: _Pair, down: _Pair, padding: _Quad, flip_filter: bool, gain: float
) -> torch.Tensor:
    """What is registered: a kernel if there is one for this filter, or else the plain operators."""
    up, down, padding = (up[0], up[1]), (down[0], down[1]), (*padding[:2], *padding[2:])  # the dispatcher hands lists
    layout = library.memory_format(x)
    x = x.contiguous(memory_format=layout)
    done = None
    if f.dtype == torch.float32 and f.numel():
        _output_size(x, _filter_size(f), up, down, padding)
        done = library.launch(launchers.upfirdn2d, x, f, up, down, padding, flip_filter, gain)
    return _plain(x, f, up, down, padding, flip_filter, gain).contiguous(memory_format=layout) if done is None else done


def _fake(x: torch.Tensor, f: torch.Tensor, up: _Pair, down: _Pair, padding: _Quad, *rest: Any) -> torch.Tensor:
    out_w, out_h = _output_size(x, _filter_size(f), up, down, padding)
    size = [x.shape[0], x.shape[1], out_h, out_w]
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=library.memory_format(x))


_UPFIRDN2D = library.register(
    "upfirdn2d",
    "(Tensor x, Tensor f, int[] up, int[] down, SymInt[] padding, bool flip_filter, float gain) -> Tensor",
    _operator,
    _fake,
    lambda *args: _UpFirDn.apply(*args, True),
)
_upfirdn2d_below = library.below_autograd(_UPFIRDN2D)


def _plain(
    x: torch.Tensor, f: torch.Tensor, up: _Pair, down: _Pair, padding: _Quad, flip_filter: bool, gain: float
) -> torch.Tensor:
    """The operator as PyTorch's convolutions.

    Of contiguous images all channels of all are filtered as those of one: PyTorch is slow with one or three. Not where
    a program for any number of images is traced, whose convolutions must know the number of their channels.
    """
    f = f.detach() if flip_filter else f.detach().flip(tuple(range(f.ndim)))
    n, c, h, w = x.shape
    if isinstance(n, int) and n > 1 and x.is_contiguous():
        y = _correlated(x.view(1, n * c, h, w), f, up, down, padding, gain)
        return y.reshape(n, c, *y.shape[2:])
    return _correlated(x, f, up, down, padding, gain)


def _correlated(x: torch.Tensor, f: torch.Tensor, up: _Pair, down: _Pair, padding: _Quad, gain: float) -> torch.Tensor:
    """One depthwise convolution, or one per axis for a long separable filter."""
    out = _output_size(x, _filter_size(f), up, down, padding)
    if f.ndim == 1 and f.numel() > _MAX_OUTER_TAPS:
        x = _run(x, f[None, :], (up[0], 1), (down[0], 1), (padding[0], padding[1], 0, 0), (out[0], x.shape[2]))
        return _run(x, f[:, None] * gain, (1, up[1]), (1, down[1]), (0, 0, padding[2], padding[3]), out)
    f = torch.outer(f, f) if f.ndim == 1 else f
    return _run(x, f if gain == 1 else f * gain, up, down, padding, out)


def _run(x: torch.Tensor, f: torch.Tensor, up: _Pair, down: _Pair, padding: _Quad, out: _Pair) -> torch.Tensor:
    """Correlation with `f`, for known output width and height, as one depthwise convolution."""
    channels = x.shape[1]
    if x.numel() == 0:
        return x.new_zeros([x.shape[0], channels, out[1], out[0]])
    if up != (1, 1):
        y = _upsampled(x, f, up, padding)
        kept = y[:, :, :: down[1], :: down[0]]
        return y if down == (1, 1) else kept.contiguous(memory_format=library.memory_format(x))
    own: _Pair = (0, 0)
    if padding[0] == padding[1] >= 0 and padding[2] == padding[3] >= 0:
        own = (padding[2], padding[0])
    else:
        x = _pad(x, padding)
    return F.conv2d(x, _per_channel(f, x), stride=(down[1], down[0]), padding=own, groups=channels)


def _upsampled(x: torch.Tensor, f: torch.Tensor, up: _Pair, padding: _Quad) -> torch.Tensor:
    """Correlation of the upsampled, padded images with `f`: every pixel adds its copy of the filter, turned round.

    Half precision on a CPU is computed in float32, in which PyTorch is up to 60 times quicker here.
    """
    if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16):
        return _upsampled(x.float(), f, up, padding).to(x.dtype)
    fh, fw = f.shape
    left, top = fw - 1 - padding[0], fh - 1 - padding[2]
    right, bottom = fw - up[0] - padding[1], fh - up[1] - padding[3]
    more = (top - bottom, left - right)
    taps = _per_channel(f.flip((0, 1)), x)
    if min(left, top) >= 0 and 0 <= more[0] < up[1] and 0 <= more[1] < up[0]:
        return F.conv_transpose2d(x, taps, None, (up[1], up[0]), (top, left), more, x.shape[1])
    return _pad(F.conv_transpose2d(x, taps, None, (up[1], up[0]), groups=x.shape[1]), (-left, -right, -top, -bottom))


def _per_channel(f: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The filter as a weight for every channel of the images by itself."""
    return f.to(x.dtype).expand(x.shape[1], 1, *f.shape).contiguous()
