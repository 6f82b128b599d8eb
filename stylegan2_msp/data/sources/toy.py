"""Data that need no download: two moons, and scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, make_moons

from stylegan2_msp.data.samples import Samples, default_names
from stylegan2_msp.data.selection import generator, random_subset, split_rows


def moons(count: int, noise: float, seed: int, split: str = "train") -> Samples:
    """Two interleaved half circles with Gaussian noise, the 2-D data of Le Coz 2023.

    Args:
        count: number of points.
        noise: standard deviation.
        seed: with ``split`` it settles the draw; the two splits never share one.
        split: 'train' or 'test'.

    Returns:
        points float32 [count, 2] and their classes, 0 upper and 1 lower.
    """
    state = int(generator(seed, "moons", split).integers(2**32))
    points, classes = make_moons(n_samples=count, noise=noise, random_state=state)
    return Samples(
        data=points.astype(np.float32),
        names=default_names("points", count),
        classes=classes.astype(np.int64),
        class_names=["upper", "lower"],
        split=split,
    )


def digits(split: str = "train", max_images: int | None = None, seed: int = 0) -> Samples:
    """Scikit-learn's 1,797 digits (UCI, Alpaydin and Kaynak 1998), 8x8 brought to 16x16 by Lanczos resampling.

    Args:
        split: 'test' is every fifth digit of each class, 'train' the others, 'all' both.
        max_images: keep a random subset of this size.
        seed: seed of the subset.

    Returns:
        uint8 [N, 1, 16, 16].
    """
    bunch = load_digits()
    classes = bunch.target.astype(np.int64)
    rows = random_subset(split_rows(classes, len(classes), split), max_images, seed, split)
    images = np.stack([_enlarge(bunch.images[row]) for row in rows])[:, None]
    return Samples(
        data=images,
        names=default_names("images", len(rows)),
        classes=classes[rows],
        class_names=[str(index) for index in range(10)],
        split=None if split == "all" else split,
    )


def _enlarge(image: np.ndarray) -> np.ndarray:
    """An 8x8 image with values 0..16 as uint8 [16, 16]."""
    scaled = Image.fromarray((image * (255 / 16)).astype(np.float32)).resize((16, 16), Image.Resampling.LANCZOS)
    return np.clip(np.rint(np.asarray(scaled)), 0, 255).astype(np.uint8)
