"""The augmentation pipe as a whole: golden images, probabilities, gradients, shared randomness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stylegan2_msp.augment import AUGPIPE, AugmentPipe, imgfilter, warp
from torch_utils_ext.rng import BatchRng

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "augment.npz")


def _pipe(p=1.0, **transforms):
    pipe = AugmentPipe(**transforms)
    pipe.p.fill_(p)
    return pipe


def _images(n=8, channels=3, size=16, dtype=torch.float32):
    return torch.rand([n, channels, size, size], dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", ["rgb", "mono"])
@pytest.mark.parametrize("transform", [str(name) for name in GOLDEN["transforms"]])
def test_golden_images(transform, kind):
    pipe = AugmentPipe(**AUGPIPE["bgc"]) if transform == "bgc" else AugmentPipe(**{transform: 1})
    for percentile in GOLDEN["percentiles"]:
        y = pipe(torch.from_numpy(GOLDEN[f"x_{kind}"]), debug_percentile=float(percentile))
        np.testing.assert_allclose(y.numpy(), GOLDEN[f"{transform}.{percentile}.{kind}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("preset", AUGPIPE)
def test_nothing_happens_at_p_0(preset):
    images = _images()
    assert torch.equal(_pipe(0, **AUGPIPE[preset])(images), images)
    # A p so small that nothing is ever chosen runs all the machinery, as p = 0 does on a GPU.
    torch.testing.assert_close(_pipe(1e-30, **AUGPIPE[preset])(images, rng=BatchRng(0)), images, rtol=0, atol=1e-5)


def test_a_pipe_without_transforms_does_nothing():
    images = _images()
    assert torch.equal(AugmentPipe()(images), images)
    assert torch.equal(AugmentPipe(imgfilter=1, imgfilter_bands=[0, 0, 0, 0])(images), images)


# How often a chosen sample differs: a mirror half of the time, a turn 3 of 4 times; shifts of 8 pixels by an eighth
# are rounded to none in half of the cases along each axis.
CHANGED = {
    **{"xflip": 1 / 2, "rotate90": 3 / 4, "xint": 3 / 4},
    **dict.fromkeys(["scale", "rotate", "aniso", "xfrac"], 1),
    **{"brightness": 1, "contrast": 1, "lumaflip": 1 / 2, "hue": 1, "saturation": 1},
    **{"noise": 1, "cutout": 1},
}


@pytest.mark.parametrize("multiplier", [1.0, 0.5])
@pytest.mark.parametrize("transform", CHANGED)
def test_transforms_happen_as_often_as_they_should(transform, multiplier):
    p, n = 0.4, 3000
    images = _images(1, size=8).expand(n, -1, -1, -1)
    y = _pipe(p, **{transform: multiplier})(images, rng=BatchRng(1))
    changed = float(((y - images).abs().amax(dim=(1, 2, 3)) > 1e-3).float().mean())
    expected = p * multiplier * CHANGED[transform]
    assert changed == pytest.approx(expected, abs=4 * (expected * (1 - expected) / n) ** 0.5 + 0.01)


def test_each_filter_band_has_its_own_chance():
    p, n = 0.2, 3000
    images = _images(1, size=8).expand(n, -1, -1, -1)
    y = _pipe(p, imgfilter=1, imgfilter_bands=[1, 0, 0.5, 1])(images, rng=BatchRng(2))
    changed = float(((y - images).abs().amax(dim=(1, 2, 3)) > 1e-4).float().mean())
    assert changed == pytest.approx(1 - (1 - p) * (1 - p / 2) * (1 - p), abs=0.04)


@pytest.mark.parametrize("channels", [1, 3])
def test_two_processes_see_the_images_of_one(channels):
    images = _images(8, channels)
    pipe = _pipe(0.7, **AUGPIPE["bgcfnc"])
    whole = pipe(images, rng=BatchRng(5))
    for rank in (0, 1):
        part = pipe(images[rank::2], rng=BatchRng(5, rank=rank, world_size=2))
        torch.testing.assert_close(part, whole[rank::2], rtol=0, atol=1e-5)


def test_a_seed_repeats_and_a_saved_state_continues():
    images, pipe, rng = _images(), _pipe(0.8, **AUGPIPE["bgcfnc"]), BatchRng(3)
    assert torch.equal(pipe(images, rng=rng), pipe(images, rng=BatchRng(3)))
    state = rng.state_dict()
    following = pipe(images, rng=rng)
    rng.load_state_dict(state)
    assert torch.equal(pipe(images, rng=rng), following)
    torch.manual_seed(0)
    unshared = pipe(images)
    torch.manual_seed(0)
    assert torch.equal(pipe(images), unshared)


@pytest.mark.parametrize("channels", [1, 3])
def test_differentiable_twice(channels):
    pipe = _pipe(1, **AUGPIPE["bgcfnc"])
    images = _images(1, channels, 4, torch.float64).requires_grad_(True)

    def run(x):
        return pipe(x, rng=BatchRng(6)) ** 2  # squared, so that there is a second derivative to check

    assert torch.autograd.gradcheck(run, [images], fast_mode=True)
    assert torch.autograd.gradgradcheck(run, [images], fast_mode=True)


def test_any_size_and_layout():
    pipe = _pipe(1, **AUGPIPE["bgcfnc"])
    for shape in ([2, 3, 4, 4], [2, 1, 2, 5], [0, 3, 8, 8], [1, 1, 40, 24]):
        assert pipe(torch.zeros(shape)).shape == tuple(shape)
    images = _images(4)
    expected = pipe(images, rng=BatchRng(0))
    for layout in (images.contiguous(memory_format=torch.channels_last), torch.stack([images, images], -1)[..., 0]):
        torch.testing.assert_close(pipe(layout, rng=BatchRng(0)), expected, rtol=0, atol=1e-5)


def test_a_first_run_for_inference_does_not_spoil_training():
    for cache in (warp._matrix, warp._lowpass, imgfilter._band_matrices, imgfilter._band_power):
        cache.cache_clear()
    pipe = _pipe(1, **AUGPIPE["bgcf"])
    with torch.inference_mode():
        pipe(_images())
    images = _images().requires_grad_(True)
    pipe(images).sum().backward()
    assert images.grad.isfinite().all()


def test_p_travels_with_the_state():
    pipe = _pipe(0.25, xflip=1)
    assert list(pipe.state_dict()) == ["p"]
    other = AugmentPipe(xflip=1)
    assert float(other.p) == 1
    other.load_state_dict(pipe.state_dict())
    assert float(other.p) == 0.25


def test_presets_add_up():
    assert set(AUGPIPE["blit"]) == {"xflip", "rotate90", "xint"}
    assert AUGPIPE["bg"] == {**AUGPIPE["blit"], **AUGPIPE["geom"]}
    assert AUGPIPE["bgc"] == {**AUGPIPE["bg"], **AUGPIPE["color"]}
    assert AUGPIPE["bgcf"] == {**AUGPIPE["bgc"], "imgfilter": 1}
    assert AUGPIPE["bgcfn"] == {**AUGPIPE["bgcf"], "noise": 1}
    assert AUGPIPE["bgcfnc"] == {**AUGPIPE["bgcfn"], "cutout": 1}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"xflip": -1}, "xflip must be zero or positive, got -1"),
        ({"scale_std": float("nan")}, "scale_std"),
        ({"imgfilter_bands": [1, 1]}, "imgfilter_bands must have 4 values"),
        ({"imgfilter_bands": [1, 1, -1, 1]}, "imgfilter_bands"),
    ],
)
def test_wrong_arguments_are_named(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        AugmentPipe(**arguments)


def test_wrong_images_are_named():
    pipe = AugmentPipe(xflip=1)
    for shape in ([3, 8, 8], [1, 2, 8, 8], [1, 3, 1, 8]):
        with pytest.raises(ValueError, match="images must be"):
            pipe(torch.zeros(shape))
    for percentile in (0, 1, 2.0):
        with pytest.raises(ValueError, match="debug_percentile"):
            pipe(_images(), debug_percentile=percentile)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_is_never_waited_for():
    pipe = _pipe(0.5, **AUGPIPE["bgcfnc"]).cuda()
    images, rng = _images().cuda(), BatchRng(0, "cuda")
    pipe(images, rng=rng)  # fills the caches
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = pipe(images, rng=rng)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert y.isfinite().all()
