"""Corrupted digits with known kinds, and generators made of real images whose match is known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.classifiers.train import train_classifier
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.data.corruptions import corrupt_gaussian
from stylegan2_msp.data.samples import Annotation, Samples, default_names
from stylegan2_msp.generation import ConditionalGenerator
from stylegan2_msp.metrics.evaluate import RealData
from stylegan2_msp.metrics.judges import Judges, make_judges
from stylegan2_msp.snapshot import Snapshot
from stylegan2_msp.uncertainty import Msp

LOW, HIGH = 0.3, 1.0


class Retrieval(torch.nn.Module):
    """Returns one of the three real images of the class asked for whose own u is nearest to ``wanted(u, z)``."""

    z_dim, c_dim, img_channels, img_resolution = 4, 11, 1, 16

    def __init__(self, real: RealData, wanted) -> None:
        super().__init__()
        self.register_buffer("images", torch.from_numpy(real.data).float() / 127.5 - 1)
        self.classes = torch.from_numpy(real.archive.classes)
        self.u = torch.from_numpy(real.archive.levels())
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.wanted = wanted

    def mapping(self, z, c, truncation_psi=1, skip_w_avg_update=False):
        return torch.cat([c, z], dim=1)

    def synthesis(self, ws, noise_mode="random", rng=None):
        cls, u, z = ws[:, :10].argmax(dim=1), ws[:, 10], ws[:, 11:]
        distance = (self.u[None] - self.wanted(u, z)[:, None]).abs()
        distance[self.classes[None] != cls[:, None]] = torch.inf
        nearest = distance.topk(3, dim=1, largest=False).indices
        place = (z[:, 0].abs() * 1000).long() % 3
        return self.images[nearest.gather(1, place[:, None])[:, 0]]


def blind(u: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """A level of its own, by a number of z that settles nothing else (`seeds.SETTLED`)."""
    return LOW + (HIGH - LOW) * torch.special.ndtr(z[:, 3])


FOLLOWING = {
    "perfect": lambda u, z: u,
    "inverted": lambda u, z: LOW + HIGH - u,
    "blind": blind,
    "shy": lambda u, z: u**2,  # less than what is asked for, except at 1
}


@pytest.fixture(scope="session")
def small_classifier() -> FrozenClassifier:
    """A classifier of the corrupted digits, trained by the tool."""
    samples = _digits()
    data, classes = torch.from_numpy(samples.data), torch.from_numpy(samples.classes)
    return train_classifier(data, classes, 10, seed=0, arch="cnn", arch_args={"width": 8, "hidden": 32})


@pytest.fixture(scope="session")
def corrupted(tmp_path_factory: pytest.TempPathFactory, small_classifier: FrozenClassifier) -> Path:
    """1700 real digits, 16x16, half of them with blur or noise, annotated."""
    samples = _digits()
    with torch.no_grad():
        probs = small_classifier.probs(torch.from_numpy(samples.data).float() / 127.5 - 1).numpy()
    note = Annotation(probs.max(axis=1), probs, small_classifier.to_bytes())
    path = tmp_path_factory.mktemp("corrupted") / "digits.zip"
    write_archive(path, replace(samples, annotation=note), progress=False)
    return path


def _digits() -> Samples:
    digits = load_digits()
    images = np.kron(digits.images[:1700] * 15.9, np.ones((1, 2, 2))).astype(np.uint8)[:, None]
    classes = digits.target[:1700].astype(np.int64)
    samples = Samples(images, default_names("images", 1700), classes, [str(i) for i in range(10)], "train")
    return corrupt_gaussian(samples, "imagenet-c", 0)


@pytest.fixture(scope="session")
def real(corrupted: Path) -> RealData:
    """The corrupted digits, read."""
    return RealData(open_archive(corrupted))


@pytest.fixture(scope="session")
def judges(real: RealData) -> Judges:
    """Judges trained on the corrupted digits."""
    return make_judges(real.archive, real.data, Msp(), torch.device("cpu"))


@pytest.fixture(scope="session")
def made_generator(real: RealData, small_classifier: FrozenClassifier) -> Callable[..., ConditionalGenerator]:
    """Makes the 'perfect', 'inverted', 'blind' or 'shy' generator of real images, for the classifier's measure."""

    def make(name: str, data: RealData = real, classifier: FrozenClassifier = small_classifier) -> ConditionalGenerator:
        info = {"kind": "images", "num_classes": 10, "class_names": None, "condition": "class+msp", "kimg": 1.0}
        info["uncertainty"] = classifier.measure.name
        G = Retrieval(data, FOLLOWING[name]).eval()
        return ConditionalGenerator(Snapshot(G, classifier, info, Path(f"{name}.safetensors")))

    return make
