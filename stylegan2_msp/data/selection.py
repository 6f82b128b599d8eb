"""Which samples: seeds for every purpose, splits that never mix, random subsets."""

from __future__ import annotations

import zlib

import numpy as np

TEST_EVERY = 5


def generator(seed: int, purpose: str, split: str | None) -> np.random.Generator:
    """Random numbers of their own for each seed, purpose and split."""
    return np.random.default_rng([seed, zlib.crc32(f"{purpose}/{split}".encode())])


def split_rows(classes: np.ndarray | None, count: int, split: str) -> np.ndarray:
    """Rows of a split: 'test' is every fifth sample of each class, 'train' the others, 'all' both.

    The seed has no say in it, so that two commands with different seeds never share samples between splits.

    Raises:
        ValueError: there is no such split.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"split must be 'train', 'test' or 'all', found {split!r}")
    if split == "all":
        return np.arange(count)
    test = np.zeros(count, dtype=bool)
    of_class = np.zeros(count, dtype=np.int64) if classes is None else classes
    for index in np.unique(of_class):
        test[np.flatnonzero(of_class == index)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return np.flatnonzero(test if split == "test" else ~test)


def random_subset(rows: np.ndarray, most: int | None, seed: int, split: str | None) -> np.ndarray:
    """At most ``most`` of these rows, chosen at random, in their order."""
    if most is None or most >= len(rows):
        return rows
    return np.sort(generator(seed, "subset", split).choice(rows, size=most, replace=False))
