"""2-D convolution with FIR-filtered up- or downsampling around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from torch_utils_ext.ops.conv2d import conv2d, conv_transpose2d
from torch_utils_ext.ops.library import check_impl
from torch_utils_ext.ops.upfirdn2d import upfirdn2d

_Quad = tuple[int, int, int, int]


def conv2d_resample(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    impl: str = "auto",
) -> torch.Tensor:
    """Upsample with filter `f`, convolve with `w`, filter with `f` and downsample, in the cheapest order.

    Equals ``upfirdn2d(x, f, up, padding, gain=up**2)``, a stride-1 convolution without padding, and
    ``upfirdn2d(., f, down)``, with the filters centred. Differentiable any number of times.

    Args:
        x: images [N, C, H, W].
        w: weight [O, C / groups, kh, kw] of the same dtype.
        f: 2-D or separable filter from `setup_filter`; None resamples without filtering.
        up: integer upsampling factor.
        down: integer downsampling factor.
        padding: zeros (negative crops) around the upsampled image: one number, [x, y] or [left, right, top, bottom].
        groups: number of filter groups.
        flip_weight: True correlates (what PyTorch calls convolution), False convolves.
        flip_filter: the same of `f`: False convolves.
        impl: 'auto' (or 'cuda', the family's word for it) is the quick one, 'ref' takes the steps above one by one.

    Returns:
        [N, O, (H up + top + bottom - kh + 1) / down, likewise W].

    Raises:
        ValueError: factors below one, padding of another form or an unknown `impl`.
    """
    check_impl(impl)
    if up < 1 or down < 1:
        raise ValueError(f"up and down must be positive integers, got up={up}, down={down}")
    taps = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    pads = _centred(_parse_padding(padding), taps, up, down)
    if impl == "ref":
        return _reference(x, w, f, up, down, pads, groups, flip_weight, flip_filter)
    kh, kw = w.shape[2:]
    # A transposed convolution turns its kernel round by itself.
    if flip_weight == (up > 1) and (kh > 1 or kw > 1):
        w = w.flip(2, 3)
    if kh == 1 and kw == 1 and up == 1 and down > 1:
        return conv2d(upfirdn2d(x, f, down=down, padding=pads, flip_filter=flip_filter), w, groups=groups)
    if kh == 1 and kw == 1 and up > 1 and down == 1:
        y = conv2d(x, w, groups=groups)
        return upfirdn2d(y, f, up=up, padding=pads, gain=up**2, flip_filter=flip_filter)
    if up == 1 and down > 1:
        y = upfirdn2d(x, f, padding=pads, flip_filter=flip_filter)
        return conv2d(y, w, stride=down, groups=groups)
    if up > 1:
        y = _transposed(x, w, f, up, pads, groups, flip_filter)
    elif pads[0] == pads[1] >= 0 and pads[2] == pads[3] >= 0:
        y = conv2d(x, w, padding=(pads[2], pads[0]), groups=groups)
    else:
        y = conv2d(F.pad(x, pads), w, groups=groups)
    return y if down == 1 else upfirdn2d(y, f, down=down, flip_filter=flip_filter)


def _reference(
    x: torch.Tensor,
    w: torch.Tensor,
    f: torch.Tensor | None,
    up: int,
    down: int,
    pads: _Quad,
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
) -> torch.Tensor:
    """The definition: resample, convolve, resample."""
    x = upfirdn2d(x, f if up > 1 else None, up=up, padding=pads, gain=up**2, flip_filter=flip_filter, impl="ref")
    x = F.conv2d(x, w if flip_weight else w.flip(2, 3), groups=groups)
    return x if down == 1 else upfirdn2d(x, f, down=down, flip_filter=flip_filter, impl="ref")


def _parse_padding(padding: int | Sequence[int]) -> _Quad:
    given = (padding, padding) if isinstance(padding, int) else tuple(int(v) for v in padding)
    if len(given) == 2:
        given = (given[0], given[0], given[1], given[1])
    if len(given) != 4:
        raise ValueError(f"padding must be one integer, [x, y] or [left, right, top, bottom], got {padding!r}")
    return given[0], given[1], given[2], given[3]


def _centred(pads: _Quad, taps: tuple[int, int], up: int, down: int) -> _Quad:
    """Adds the zeros that keep the image in place under the filters of both resamplings."""
    out = list(pads)
    for axis, n in enumerate(taps):
        if up > 1:
            out[2 * axis] += (n + up - 1) // 2
            out[2 * axis + 1] += (n - up) // 2
        if down > 1:
            out[2 * axis] += (n - down + 1) // 2
            out[2 * axis + 1] += (n - down) // 2
    return out[0], out[1], out[2], out[3]


def _transposed(
    x: torch.Tensor, w: torch.Tensor, f: torch.Tensor | None, up: int, pads: _Quad, groups: int, flip_filter: bool
) -> torch.Tensor:
    """Convolves (`w` as it is, not turned round) before filtering, which skips the zeros that upsampling inserts."""
    out, each, kh, kw = w.shape
    if groups == 1:
        w = w.transpose(0, 1)
    else:
        w = w.reshape(groups, out // groups, each, kh, kw).transpose(1, 2).reshape(-1, out // groups, kh, kw)
    # The transposed convolution already makes kw - 1 columns on the left and kw - up on the right.
    left, right, top, bottom = pads[0] - (kw - 1), pads[1] - (kw - up), pads[2] - (kh - 1), pads[3] - (kh - up)
    crop_x, crop_y = max(min(-left, -right), 0), max(min(-top, -bottom), 0)
    y = conv_transpose2d(x, w, stride=up, padding=(crop_y, crop_x), groups=groups)
    rest = (left + crop_x, right + crop_x, top + crop_y, bottom + crop_y)
    return upfirdn2d(y, f, padding=rest, gain=up**2, flip_filter=flip_filter)
