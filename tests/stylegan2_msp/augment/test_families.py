"""Each family of transforms by known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch

from stylegan2_msp.augment import AugmentPipe, warp
from stylegan2_msp.augment.affine import compose, rotate2d, rotate3d, scale2d, translate2d
from stylegan2_msp.augment.imgfilter import band_filters
from stylegan2_msp.augment.reflect import reflect
from stylegan2_msp.augment.wavelets import SYM2, SYM6
from torch_utils_ext.rng import BatchRng


def _images(channels=3, size=16):
    return torch.rand([2, channels, size, size], generator=torch.Generator().manual_seed(0)) * 2 - 1


def _smooth_images(channels=3, size=32):
    """Random mixtures of slow waves that go on smoothly in their mirror images.

    Mirrors and turns go through the same resampling as the rest of the pipe. Its wavelet filter is not quite
    symmetric, so that they come out exact only as far as the image is smooth.
    """
    waves = torch.cos(math.pi / (size - 1) * torch.arange(3)[:, None] * torch.arange(size))
    weights = torch.randn([2, channels, 3, 3], generator=torch.Generator().manual_seed(0)) / 3
    return waves.T @ weights @ waves


def _at(percentile, images, **transforms):
    return AugmentPipe(**transforms)(images, debug_percentile=percentile)


def _normal(percentile):
    return float(scipy.special.erfinv(2 * percentile - 1))


def _close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def test_xflip_mirrors():
    x = _smooth_images()
    _close(_at(0.4, x, xflip=1), x)
    _close(_at(0.6, x, xflip=1), x.flip(3), atol=0.05)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_rotate90_turns(turns):
    x = _smooth_images()
    _close(_at(turns / 4 + 0.1, x, rotate90=1), torch.rot90(x, turns, dims=(2, 3)), atol=0.05)


def test_xint_shifts_and_reflects():
    x = _images()
    y = _at(0.75, x, xint=1, xint_max=0.25)  # 16 pixels times half of a quarter: 2 pixels right and down
    source = reflect(torch.arange(16) - 2, 16)
    _close(y, x[:, :, source][..., source])


@pytest.mark.parametrize("shift", [-41, -16, 0, 9, 30, 55])
def test_shifts_of_any_size_see_mirror_images(shift):
    x = _images(size=8)
    ones = torch.ones(2)
    y = warp.warp(x, translate2d(shift * ones, 0 * ones))
    _close(y, x[..., reflect(torch.arange(8) + shift, 8)], atol=1e-4)


def test_rotation_by_a_quarter_turn_and_by_none():
    x = _smooth_images()
    _close(_at(0.5, x, rotate=1), x)
    _close(_at(0.75, x, rotate=1), torch.rot90(x, 1, dims=(2, 3)), atol=0.05)
    _close(_at(0.75, x, rotate=1, rotate_max=0), x)


def _smooth_image(x, y):
    return torch.cos(x / 9) * torch.cos(y / 7 + 0.5)


@pytest.mark.parametrize("transform", ["scale", "aniso", "rotate", "xfrac"])
def test_geometry_moves_a_smooth_image_to_the_right_place(transform):
    size, percentile = 32, 0.7
    places = torch.arange(size) - (size - 1) / 2
    y, x = torch.meshgrid(places, places, indexing="ij")
    result = _at(percentile, _smooth_image(x, y).expand(1, 1, -1, -1), **{transform: 1})[0, 0]
    s, angle = 2 ** (_normal(percentile) * 0.2), (2 * percentile - 1) * math.pi
    shift = _normal(percentile) * 0.125 * size
    source = {
        "scale": (x / s, y / s),
        "aniso": (x / s, y * s),
        "rotate": (x * math.cos(angle) - y * math.sin(angle), y * math.cos(angle) + x * math.sin(angle)),
        "xfrac": (x - shift, y - shift),
    }[transform]
    inside = (source[0].abs() < size / 2 - 3) & (source[1].abs() < size / 2 - 3)
    assert inside.float().mean() > 0.4
    _close(result[inside], _smooth_image(*source)[inside], atol=0.012)


def test_long_axes_are_filtered_and_short_ones_multiplied_alike(monkeypatch):
    x = _images().requires_grad_(True)
    inverse = compose([rotate2d(torch.tensor([0.3, 2.0])), scale2d(torch.tensor([0.8, 1.4]), torch.tensor([1.0, 2.5]))])
    results = []
    for largest in (256, 0):
        monkeypatch.setattr(warp, "_LARGEST_MATRIX", largest)
        y = warp.warp(x, inverse)
        results.append((y, torch.autograd.grad(y.square().sum(), x)[0]))
    _close(results[0][0], results[1][0])
    _close(results[0][1], results[1][1], atol=1e-4)


def test_brightness_and_contrast():
    x = _images()
    _close(_at(0.8, x, brightness=1), x + _normal(0.8) * 0.2)
    _close(_at(0.8, x, contrast=1), x * 2 ** (_normal(0.8) * 0.5))
    _close(_at(0.8, x, contrast=1, brightness=1), (x + _normal(0.8) * 0.2) * 2 ** (_normal(0.8) * 0.5))


def test_lumaflip_inverts_luma_and_keeps_chroma():
    x = _images()
    y = _at(0.9, x, lumaflip=1)
    _close(y.mean(dim=1), -x.mean(dim=1))
    _close(y - y.mean(dim=1, keepdim=True), x - x.mean(dim=1, keepdim=True))
    mono = _images(1)
    _close(_at(0.9, mono, lumaflip=1), -mono)
    _close(_at(0.4, mono, lumaflip=1), mono)


def test_a_third_of_a_turn_of_hue_exchanges_the_channels():
    x = _images()
    _close(_at(5 / 6, x, hue=1), x.roll(1, dims=1))  # red becomes green
    _close(_at(1 / 6, x, hue=1), x.roll(-1, dims=1))


def test_saturation_scales_the_distance_from_grey():
    x = _images()
    grey = x.mean(dim=1, keepdim=True)
    _close(_at(0.3, x, saturation=1), grey + (x - grey) * 2 ** _normal(0.3))


def test_grey_has_neither_hue_nor_saturation():
    mono = _images(1)
    for percentile in (0.1, 0.8):
        _close(_at(percentile, mono, hue=1, saturation=1), mono)
        _close(_at(percentile, mono.expand(-1, 3, -1, -1), hue=1, saturation=1), mono.expand(-1, 3, -1, -1))


def test_imgfilter_is_a_reflected_zero_phase_filter():
    x = _images(size=12)
    gains, power = np.ones(4), np.array([10, 1, 1, 1]) / 13
    for band in range(4):
        factor = np.ones(4)
        factor[band] = 2 ** _normal(0.8)
        gains *= factor / np.sqrt((power * factor**2).sum())
    taps = (gains[:, None] * band_filters()).sum(axis=0)
    expected = x.numpy().astype(np.float64)
    for axis in (2, 3):
        expected = scipy.ndimage.correlate1d(expected, taps, axis=axis, mode="mirror")
    _close(_at(0.8, x, imgfilter=1), torch.from_numpy(expected).float())


def test_filter_bands_split_the_spectrum():
    bank = band_filters()
    impulse = np.zeros(bank.shape[1])
    impulse[bank.shape[1] // 2] = 1
    np.testing.assert_allclose(bank.sum(axis=0), impulse, atol=1e-12)
    np.testing.assert_allclose(bank, bank[:, ::-1], atol=1e-12)
    time = np.arange(bank.shape[1]) - bank.shape[1] // 2
    for band, frequency in enumerate([np.pi / 32, 3 * np.pi / 16, 3 * np.pi / 8, 7 * np.pi / 8]):
        response = bank @ np.cos(frequency * time)
        assert response[band] > 0.7
        assert np.abs(np.delete(response, band)).max() < 0.25


def test_noise_has_the_strength_of_its_percentile():
    x = torch.zeros(2, 3, 64, 64)
    y = AugmentPipe(noise=1)(x, debug_percentile=0.7, rng=BatchRng(0))
    assert float(y.std()) == pytest.approx(_normal(0.7) * 0.1, rel=0.03)
    assert float(y.mean()) == pytest.approx(0, abs=0.003)
    assert not torch.equal(y[0], y[1])


def test_strengths_of_noise_are_half_normal():
    strengths = AugmentPipe(noise=1)(torch.zeros(2000, 1, 16, 16), rng=BatchRng(0)).std(dim=(1, 2, 3))
    assert float(strengths.square().mean()) == pytest.approx(0.1**2, rel=0.1)
    assert float(strengths.mean()) == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)


def test_cutouts_lie_anywhere_in_the_image():
    """Their centre is uniform along each axis, one independent of the other."""
    holes = AugmentPipe(cutout=1, cutout_size=0.25)(torch.ones(2000, 1, 16, 16), rng=BatchRng(0))[:, 0] == 0
    inside = holes.any(dim=2).double().mean(dim=0), holes.any(dim=1).double().mean(dim=0)
    for share in inside:  # rows and columns that a hole of 4 pixels covers
        _close(share[2:-2], torch.full((12,), 0.25, dtype=torch.float64), atol=0.04)
        assert share[0] == pytest.approx(2.5 / 16, abs=0.04)
    assert holes[:, 2, 13].double().mean() == pytest.approx(0.25**2, abs=0.02)


def test_cutout_blanks_a_square():
    x = torch.ones(1, 3, 16, 16)
    expected = torch.ones(16, 16)
    expected[4:12, 4:12] = 0
    assert torch.equal(_at(0.5, x, cutout=1)[0, 0], expected)
    expected = torch.ones(16, 16)
    expected[:5, :5] = 0
    assert torch.equal(_at(0.2, x, cutout=1, cutout_size=0.25)[0, 0, 6:, 6:], expected[6:, 6:])
    assert torch.equal(_at(0.5, x, cutout=1, cutout_size=0), x)


def test_rotate3d_turns_about_its_axis():
    axis = torch.tensor([0.0, 0.0, 1.0])
    turn = rotate3d(axis, torch.tensor([math.pi / 2]))[0]
    _close(turn @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
    _close(turn @ axis, axis)


@pytest.mark.parametrize(("taps", "moments"), [(SYM2, 2), (SYM6, 6)])
def test_wavelets_are_orthonormal_with_vanishing_moments(taps, moments):
    taps = np.array(taps)
    assert taps.size == 2 * moments
    for shift in range(moments):
        assert taps[: taps.size - 2 * shift] @ taps[2 * shift :] == pytest.approx(float(shift == 0), abs=1e-9)
    signs = (-1.0) ** np.arange(taps.size)
    for power in range(moments):
        assert (signs * taps) @ np.linspace(-1, 1, taps.size) ** power == pytest.approx(0, abs=1e-7)
