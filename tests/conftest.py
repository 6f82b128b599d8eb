"""What many tests share: small archives of real digits and of moons, annotated by small frozen classifiers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stylegan2_msp.classifiers import ClassifierSpec, FrozenClassifier
from stylegan2_msp.classifiers.builtin import SmallCNN, SmallMLP
from stylegan2_msp.data.archive import write_archive
from stylegan2_msp.data.samples import Annotation, Samples, default_names

STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """--slow-for: on a slow machine the quick tests all run, and of the others those for which there is time."""
    about = "run slow tests last, and skip those that would begin later than this"
    parser.addoption("--slow-for", type=float, metavar="MINUTES", help=about)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("slow_for") is not None:
        items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("slow_for")
    late = minutes is not None and time.monotonic() - STARTED > 60 * minutes
    if late and item.get_closest_marker("slow") is not None:
        pytest.skip(f"slow, and {minutes:g} minutes have passed (--slow-for)")


@pytest.fixture
def default_float64() -> Iterator[None]:
    """New tensors of a caller are float64 by default."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """Folder of the four MNIST files, named by MNIST_DIR."""
    folder = os.environ.get("MNIST_DIR")
    if not folder:
        pytest.skip("MNIST_DIR is not set to a folder of MNIST idx files")
    return Path(folder)


@pytest.fixture(scope="session")
def frozen_cnn() -> FrozenClassifier:
    """A classifier of 16x16 grey digits with random weights, scaled so that its MSP takes many values."""
    torch.manual_seed(0)
    net = SmallCNN(16, 1, 10, width=4, hidden=16)
    with torch.no_grad():
        net.head[-1].weight.mul_(30)
    return FrozenClassifier(
        ClassifierSpec("cnn", "images", 10, 1, 16, 1, 16, arch_args={"width": 4, "hidden": 16}), net
    )


def annotated(samples: Samples, classifier: FrozenClassifier) -> Samples:
    """The samples with what the classifier says of them."""
    data = torch.from_numpy(samples.data)
    with torch.no_grad():
        probs = classifier.probs(data.float() / 127.5 - 1 if samples.kind == "images" else data).numpy()
    msp = probs.max(axis=1)
    return replace(samples, annotation=Annotation(msp, probs, classifier.to_bytes()))


@pytest.fixture(scope="session")
def digits_archive(tmp_path_factory: pytest.TempPathFactory, frozen_cnn: FrozenClassifier) -> Path:
    """400 real digits, 16x16, annotated."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.kron(digits.images[:400] * 15.9, np.ones((1, 2, 2))).astype(np.uint8)[:, None]
    names = default_names("images", 400)
    samples = Samples(images, names, digits.target[:400].astype(np.int64), [str(i) for i in range(10)], "train")
    path = tmp_path_factory.mktemp("digits") / "digits.zip"
    write_archive(path, annotated(samples, frozen_cnn), progress=False)
    return path


@pytest.fixture(scope="session")
def moons_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 moons, annotated."""
    from sklearn.datasets import make_moons

    points, classes = make_moons(500, noise=0.3, random_state=0)
    torch.manual_seed(0)
    net = SmallMLP(2, 2, hidden=8, num_hidden=1)
    classifier = FrozenClassifier(
        ClassifierSpec("mlp", "points", 2, 0, 0, 2, 0, arch_args={"hidden": 8, "num_hidden": 1}), net
    )
    samples = Samples(
        points.astype(np.float32), default_names("points", 500), classes.astype(np.int64), ["upper", "lower"], "train"
    )
    path = tmp_path_factory.mktemp("moons") / "moons.zip"
    write_archive(path, annotated(samples, classifier), progress=False)
    return path
