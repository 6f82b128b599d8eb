"""Gaussian blur and noise at five severities (Hendrycks and Dietterich 2019), on a random half of the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d

from stylegan2_msp.data.samples import Corruption, Samples
from stylegan2_msp.data.selection import generator
from stylegan2_msp.errors import UserError

_PIXELS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Severities:
    """Standard deviations for severities 1 to 5: noise on pixels in [0, 1], blur in pixels."""

    noise: tuple[float, ...]
    blur: tuple[float, ...]


TABLES = {
    "imagenet-c": Severities(noise=(0.08, 0.12, 0.18, 0.26, 0.38), blur=(1, 2, 3, 4, 6)),
    "cifar-c": Severities(noise=(0.04, 0.06, 0.08, 0.09, 0.10), blur=(0.4, 0.6, 0.7, 0.8, 1)),
}


def corrupt_gaussian(samples: Samples, table: str, seed: int) -> Samples:
    """Corrupts a random half of the images: blur or noise, equally likely, severity uniform in 1..5.

    The recipe of Le Coz 2023, section 3; kind and severity of every image are recorded. An annotation is left out: the
    images are others now.

    Args:
        samples: clean images.
        table: a key of `TABLES`.
        seed: the same seed gives the same images.

    Raises:
        UserError: the samples are points or have been corrupted already.
    """
    if samples.kind != "images" or samples.corruption is not None:
        found = "2-D points" if samples.kind != "images" else "images that are corrupted already"
        raise UserError(f"--corrupt: found {found}, expected clean images; leave the option out")
    rng = generator(seed, "corruption", samples.split)
    count = len(samples)
    chosen = np.sort(rng.permutation(count)[: count // 2])
    is_blur = rng.random(len(chosen)) < 0.5
    severity = rng.integers(1, 6, size=len(chosen))
    images = samples.data.copy()
    for level in range(1, 6):
        for rows in _chunks(chosen[is_blur & (severity == level)], images):
            images[rows] = gaussian_blur(images[rows], TABLES[table].blur[level - 1])
        for rows in _chunks(chosen[~is_blur & (severity == level)], images):
            images[rows] = gaussian_noise(images[rows], TABLES[table].noise[level - 1], rng)
    kinds, levels = np.full(count, "none", dtype=object), np.zeros(count, dtype=np.int64)
    kinds[chosen] = np.where(is_blur, "blur", "noise")
    levels[chosen] = severity
    corruption = Corruption(table, kinds.tolist(), levels.tolist())
    return replace(samples, data=images, corruption=corruption, annotation=None)


def gaussian_noise(images: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """uint8 images with Gaussian noise of this standard deviation on the [0, 1] scale, clipped."""
    noise = rng.standard_normal(images.shape, dtype=np.float32)
    return _to_uint8(images + (255 * sigma) * noise)


def gaussian_blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """uint8 images [N, C, H, W] blurred by a Gaussian of ``sigma`` pixels, cut at 4 sigma, borders repeated outwards.

    The filter along one axis is a matrix, so that a whole batch is two matrix products.
    """
    height, width = images.shape[2:]
    rows, columns = _blur_matrix(height, sigma), _blur_matrix(width, sigma)
    return _to_uint8(np.matmul(np.matmul(rows, images.astype(np.float32)), columns.T))


def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    return gaussian_filter1d(np.eye(size), sigma, axis=0, mode="nearest", truncate=4.0).astype(np.float32)


def _to_uint8(images: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def _chunks(rows: np.ndarray, images: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _PIXELS_AT_ONCE // int(np.prod(images.shape[1:])))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
