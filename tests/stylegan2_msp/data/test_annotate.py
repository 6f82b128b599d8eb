"""Annotation: the labels are what the classifier says, failures leave the archive as it was, the cache is reused."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from stylegan2_msp.classifiers import ClassifierSpec, FrozenClassifier
from stylegan2_msp.classifiers.builtin import SmallCNN, SmallMLP
from stylegan2_msp.data import annotate as module
from stylegan2_msp.data.annotate import annotate_archive, annotate_cached, annotate_samples
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.data.predict import predict_all
from stylegan2_msp.data.samples import Samples, default_names
from stylegan2_msp.errors import UserError

ARGS = {"width": 2, "hidden": 4}


def images(count: int = 30, classes: int = 3) -> Samples:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    names = [f"class {k}" for k in range(classes)]
    return Samples(data, default_names("images", count), np.arange(count) % classes, names, "train")


def classifier(classes: int = 3, seed: int = 0) -> FrozenClassifier:
    torch.manual_seed(seed)
    spec = ClassifierSpec("cnn", "images", classes, 1, 8, 1, 8, arch_args=ARGS)
    return FrozenClassifier(spec, SmallCNN(8, 1, classes, **ARGS))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """An archive with integer labels."""
    return write_archive(tmp_path / "x.zip", images(), progress=False)


@pytest.fixture
def known(tmp_path: Path) -> str:
    """A classifier's file."""
    path = tmp_path / "c.safetensors"
    path.write_bytes(classifier().to_bytes())
    return str(path)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_labels_are_what_the_classifier_says(plain: Path, known: str) -> None:
    annotate_archive(plain, None, known, device="cpu", batch=7)
    archive = open_archive(plain)
    x = torch.from_numpy(archive.load_images(progress=False)).float() / 127.5 - 1
    probs = classifier().probs(x)
    assert archive.probs is not None
    assert archive.u is not None
    torch.testing.assert_close(torch.from_numpy(archive.probs), probs)
    torch.testing.assert_close(torch.from_numpy(archive.u), probs.max(dim=1).values)
    assert archive.uncertainty == "msp"
    assert archive.classifier_bytes == classifier().to_bytes()
    with zipfile.ZipFile(plain) as content:
        manifest = json.loads(content.read("dataset.json"))
    assert manifest["labels"][4][1][:3] == [0.0, 1.0, 0.0]
    assert manifest["labels"][4][1][3] == pytest.approx(float(probs[4].max()), abs=1e-6)
    assert manifest["classifier"]["sha256"] == classifier().sha256


def test_linear_classifier_on_points_by_hand() -> None:
    net = SmallMLP(2, 2, hidden=1, num_hidden=1)
    with torch.no_grad():
        for layer, weight, bias in (
            (net.layers[0], [[100.0, 0.0]], [0.0]),
            (net.layers[2], [[0.01], [0.0]], [0.0] * 2),
        ):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.copy_(torch.tensor(bias))
    frozen = FrozenClassifier(
        ClassifierSpec("mlp", "points", 2, 0, 0, 2, 0, arch_args={"hidden": 1, "num_hidden": 1}), net
    )
    points = np.array([[0, 0], [1, 5], [2, -3], [3, 1]], np.float32)
    samples = Samples(points, default_names("points", 4), np.zeros(4, np.int64), ["a", "b"])
    probs, u = predict_all(frozen, samples, batch=3)
    expected = 1 / (1 + np.exp(-np.array([0.0, 1.0, 2.0, 3.0])))  # silu(100 x) is 100 x to float32 precision here
    np.testing.assert_allclose(probs[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(u, probs.max(axis=1))


def test_annotating_again_replaces(plain: Path, known: str, tmp_path: Path) -> None:
    annotate_archive(plain, None, known, device="cpu")
    other = tmp_path / "other.safetensors"
    other.write_bytes(classifier(seed=1).to_bytes())
    annotate_archive(plain, None, str(other), device="cpu")
    assert open_archive(plain).classifier_bytes == other.read_bytes()


def test_another_archives_classifier_is_used(plain: Path, known: str, tmp_path: Path) -> None:
    annotate_archive(plain, None, known, device="cpu")
    test = write_archive(tmp_path / "test.zip", images(12), progress=False)
    annotate_archive(test, tmp_path / "test-msp.zip", str(plain), device="cpu")
    assert open_archive(tmp_path / "test-msp.zip").classifier_bytes == open_archive(plain).classifier_bytes
    assert open_archive(test).u is None
    with pytest.raises(UserError, match="holds no classifier"):
        annotate_archive(test, None, str(test), device="cpu")


def test_the_built_in_classifier_is_trained_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = images(40, 2)
    samples.data[samples.classes == 1] //= 4
    done = annotate_samples(samples, "train", seed=1, device="cpu")
    assert done.annotation is not None
    assert (done.annotation.probs.argmax(1) == samples.classes).all()
    shown = capsys.readouterr().out
    assert "accuracy 100.0 % on 36 training samples, 100.0 % on 4 held out" in shown
    assert "paper" not in shown


def test_accuracy_of_a_rare_class_is_told(tmp_path: Path, known: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One class in twenty that the classifier never names leaves an accuracy of 95 %."""
    found = classifier()
    samples = images(200)
    named = predict_all(found, samples)[0].argmax(axis=1)
    common = int(np.bincount(named).argmax())
    rare = (common + 1) % samples.num_classes
    kept = np.flatnonzero(named == common)[:40]
    classes = np.where(np.arange(40) < 2, rare, common)
    annotate_samples(replace(samples.take(kept), classes=classes), known, device="cpu")
    assert f"accuracy 95.0 % (of {samples.class_names[rare]} 0.0 %)" in capsys.readouterr().out


def test_papers_figures_stand_beside_mnists(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    samples = Samples(
        rng.integers(0, 256, (10_000, 1, 32, 32), dtype=np.uint8),
        default_names("images", 10_000),
        np.arange(10_000) % 10,
        [str(index) for index in range(10)],
    )
    frozen = classifier(10)
    frozen = FrozenClassifier(
        replace(frozen.spec, report={"train_accuracy": 0.991, "val_accuracy": 0.987, "train_size": 9, "val_size": 1,
                                     "epochs": 2, "seed": 0}),
        frozen.net,
    )  # fmt: skip
    probs = np.full((10_000, 10), 0.1, np.float32)
    line = module._report(frozen, samples, probs, probs.max(axis=1))[0]
    assert "99.1 % (paper: 98.8 %)" in line
    assert "98.7 % (paper: 98.5 %)" in line


class Linear5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


def failing(tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Classifier arguments that must fail, with what is said."""
    torch.export.save(
        torch.export.export(Linear5(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},)),
        tmp_path / "five.pt2",
    )
    nan = classifier()
    with torch.no_grad():
        nan.net.head[-1].bias[0] = float("nan")
    (tmp_path / "nan.safetensors").write_bytes(nan.to_bytes())
    (tmp_path / "four.safetensors").write_bytes(classifier(4).to_bytes())
    (tmp_path / "cut.safetensors").write_bytes(classifier().to_bytes()[:-9])
    (tmp_path / "cut.pt2").write_bytes((tmp_path / "five.pt2").read_bytes()[:900])
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    return {
        "five.pt2": ("five.pt2", "has 5 classes, the data has 3"),
        "nan": ("nan.safetensors", "NaN"),
        "four": ("four.safetensors", "4 classes, the data has 1x8x8 images of 3"),
        "cut": ("cut.safetensors", "damaged"),
        "cut.pt2": ("cut.pt2", "truncated"),
        "weights": ("weights.safetensors", "a state dict .* without its network"),
        "absent": ("absent.pt2", "cannot be read"),
    }


def test_failures_leave_the_archive_as_it_was(plain: Path, tmp_path: Path) -> None:
    before, listing = sha(plain), None
    cases = failing(tmp_path)
    listing = sorted(p.name for p in tmp_path.iterdir())
    for name, message in cases.values():
        with pytest.raises(UserError, match=message) as error:
            annotate_archive(plain, None, str(tmp_path / name), device="cpu")
        assert "\n" not in str(error.value)
        assert sha(plain) == before
    with pytest.raises(UserError, match="--device warp"):
        annotate_archive(plain, None, "train", device="warp")
    assert sorted(p.name for p in tmp_path.iterdir()) == listing


def test_data_without_labels_or_classes(tmp_path: Path, known: str) -> None:
    with pytest.raises(UserError, match="no class labels"):
        annotate_samples(replace(images(), classes=None, class_names=None), known, device="cpu")
    with pytest.raises(UserError, match=r"1 class\(es\)"):
        annotate_samples(images(classes=1), known, device="cpu")
    folder = write_archive(tmp_path / "folder", images(), progress=False)
    with pytest.raises(UserError, match=r"is a folder.*give --dest"):
        annotate_archive(folder, None, known, device="cpu")
    annotate_archive(folder, tmp_path / "y.zip", known, device="cpu")
    assert open_archive(tmp_path / "y.zip").u is not None


def test_data_on_a_mount_that_cannot_be_written_are_annotated_elsewhere(
    plain: Path, known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    with pytest.raises(UserError, match=r"is not writable; make one with `dataset annotate --data .* --dest "):
        annotate_cached(plain, known, device="cpu")


def test_the_cache_is_keyed_by_data_and_classifier(plain: Path, known: str, tmp_path: Path) -> None:
    before = sha(plain)
    path = annotate_cached(plain, known, device="cpu")
    assert sha(plain) == before
    data, used = open_archive(plain).content_sha256, classifier().sha256
    assert path.name == f".x.{data[:12]}-{used[:12]}.msp.zip"
    assert path.parent == plain.resolve().parent
    made = path.stat().st_mtime_ns
    assert annotate_cached(plain, known, device="cpu") == path
    assert path.stat().st_mtime_ns == made
    Path(known).write_bytes(classifier(seed=1).to_bytes())
    assert annotate_cached(plain, known, device="cpu") != path
    write_archive(plain, images(33), progress=False)
    assert annotate_cached(plain, known, device="cpu").name.split("-")[0] != path.name.split("-")[0]


def test_a_damaged_cache_is_made_again(plain: Path, known: str) -> None:
    path = annotate_cached(plain, known, device="cpu")
    good = sha(path)
    path.write_bytes(path.read_bytes()[:100])
    assert annotate_cached(plain, known, device="cpu") == path
    assert sha(path) == good


def test_training_is_cached_by_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = write_archive(tmp_path / "x.zip", images(), progress=False)
    first = annotate_cached(plain, "train", seed=1, device="cpu")
    monkeypatch.setattr(module, "train_classifier", None)  # must not be needed again
    assert annotate_cached(plain, "train", seed=1, device="cpu") == first


@pytest.mark.slow
def test_mnist_is_annotated_within_a_minute(mnist_dir: Path, tmp_path: Path) -> None:
    """A quarter of it within a quarter of a minute."""
    from stylegan2_msp.data.sources.mnist import mnist

    samples = mnist(mnist_dir, max_images=15_000)
    plain = write_archive(tmp_path / "m.zip", samples, progress=False)
    torch.manual_seed(0)
    frozen = FrozenClassifier(ClassifierSpec("cnn", "images", 10, 1, 32, 1, 32), SmallCNN(32, 1, 10))
    (tmp_path / "c.safetensors").write_bytes(frozen.to_bytes())
    start = time.process_time()
    annotate_archive(plain, None, str(tmp_path / "c.safetensors"), device="cpu")
    spent = time.process_time() - start  # of both cores together
    assert open_archive(plain).num_images == 15_000
    assert spent < 30


def test_mirror_images_get_an_msp_of_their_own(plain: Path, known: str, tmp_path: Path) -> None:
    once = open_archive(annotate_archive(plain, tmp_path / "once.zip", known)).load()
    both = open_archive(annotate_archive(plain, tmp_path / "both.zip", known, mirror=True)).load()
    n = len(once)
    assert np.array_equal(both.data[:n], once.data)
    assert np.array_equal(both.data[n:], once.data[..., ::-1])
    assert np.array_equal(both.classes, np.tile(once.classes, 2))
    assert np.allclose(both.annotation.u[:n], once.annotation.u)
    classifier = FrozenClassifier.from_bytes(both.annotation.classifier_bytes)
    _, flipped = classifier.predict(torch.from_numpy(once.data[..., ::-1].copy()).float() / 127.5 - 1)
    assert np.allclose(both.annotation.u[n:], flipped.numpy(), atol=1e-6)
    assert not np.allclose(both.annotation.u[n:], once.annotation.u)


@pytest.mark.filterwarnings("error")
def test_read_only_data_are_annotated_without_a_warning(known: str) -> None:
    samples = images()
    free = annotate_samples(samples, known).annotation
    samples.data.flags.writeable = False
    held = annotate_samples(samples, known).annotation
    assert free is not None
    assert held is not None
    assert np.array_equal(held.u, free.u)


def test_a_classifier_may_be_a_path_and_no_module(known: str) -> None:
    by_path, by_name = (annotate_samples(images(), given).annotation for given in (Path(known), known))
    assert by_path is not None
    assert by_name is not None
    assert np.array_equal(by_path.u, by_name.u)
    with pytest.raises(UserError, match=r"is a SmallCNN, expected a name; .*__main__:factory"):
        annotate_samples(images(), classifier().net)  # type: ignore[arg-type]


def test_annotating_does_not_depend_on_the_callers_mode(known: str) -> None:
    plain = annotate_samples(images(), known).annotation
    with torch.inference_mode():
        found = annotate_samples(images(), known).annotation
    assert plain is not None
    assert found is not None
    assert np.array_equal(found.u, plain.u)
