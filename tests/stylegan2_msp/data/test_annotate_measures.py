"""Annotation by every measure, with and without recalibration: what the archive then holds, and how it is checked."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stylegan2_msp.classifiers import ClassifierSpec, FrozenClassifier
from stylegan2_msp.classifiers.builtin import SmallMLP
from stylegan2_msp.classifiers.load import Declared
from stylegan2_msp.classifiers.train import split_validation
from stylegan2_msp.cli.annotate import MEASURES as OFFERED
from stylegan2_msp.cli.annotate import METHODS as OFFERED_METHODS
from stylegan2_msp.conditioning import level
from stylegan2_msp.data.annotate import annotate_archive, annotate_samples
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.data.recalibrate import METHODS
from stylegan2_msp.data.samples import Samples, default_names
from stylegan2_msp.data.sources.toy import moons
from stylegan2_msp.errors import UserError
from stylegan2_msp.metrics.calibration import ece
from stylegan2_msp.uncertainty import MEASURES

K = 3


def classifier(seed: int = 0) -> FrozenClassifier:
    torch.manual_seed(seed)
    args = {"hidden": 16, "num_hidden": 1, "dropout": 30}
    net = SmallMLP(2, K, **args)
    with torch.no_grad():
        net.layers[-1].weight.mul_(4)
    return FrozenClassifier(ClassifierSpec("mlp", "points", K, 0, 0, 2, 0, arch_args=args), net)


def points(count: int = 600, seed: int = 0, sharpness: float = 1.0) -> Samples:
    """Points whose classes are drawn from the classifier's own probabilities, its logits divided by ``sharpness``."""
    data = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) * 2
    p = (classifier()(data) / sharpness).softmax(1)
    drawn = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    return Samples(data.numpy(), default_names("points", count), drawn.numpy(), ["a", "b", "c"], "train")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "plain.zip", points(), progress=False)


@pytest.fixture
def known(tmp_path: Path) -> str:
    path = tmp_path / "known.safetensors"
    path.write_bytes(classifier().to_bytes())
    return str(path)


def test_the_command_offers_what_there_is() -> None:
    assert tuple(MEASURES) == OFFERED
    assert METHODS == OFFERED_METHODS


@pytest.mark.parametrize("name", list(MEASURES))
def test_every_measure_is_written_as_floats_per_image_and_read_back(
    plain: Path, known: str, tmp_path: Path, name: str
) -> None:
    out = annotate_archive(plain, tmp_path / "out.zip", known, device="cpu", uncertainty=name)
    archive = open_archive(out)
    assert archive.classifier_bytes is not None
    frozen = FrozenClassifier.from_bytes(archive.classifier_bytes)
    assert archive.uncertainty == frozen.measure.name == name
    x, classes = torch.from_numpy(archive.load_points()), torch.from_numpy(archive.classes)
    measured = frozen.uncertainty(x, classes)
    width = K if name == "softmax" else 1
    labels = archive.labels()
    assert labels.shape == (600, K + width)
    np.testing.assert_allclose(labels[:, K:], measured.reshape(600, -1).clamp(0, 1).numpy(), atol=1e-6)
    pred, u = frozen.answer(x, classes)
    np.testing.assert_allclose(archive.levels(), u.clamp(0, 1).numpy(), atol=1e-6)
    np.testing.assert_array_equal(level(torch.from_numpy(labels), K).numpy(), archive.levels())
    assert torch.equal(pred, frozen(x).argmax(1))
    manifest = json.loads(zipfile.ZipFile(out).read("dataset.json"))
    assert manifest["uncertainty"] == {"name": name}
    for _, label in manifest["labels"]:
        assert sorted(label[:K]) == [0] * (K - 1) + [1]
        assert all(type(v) is float for v in label[K:])
    again = open_archive(write_archive(tmp_path / "again.zip", archive.load(), progress=False))
    np.testing.assert_array_equal(again.labels(), labels)


def test_measures_with_a_recorded_range_fill_it(plain: Path, known: str, tmp_path: Path) -> None:
    for name in ("energy", "mutual_information"):
        u = open_archive(annotate_archive(plain, tmp_path / f"{name}.zip", known, device="cpu", uncertainty=name)).u
        assert (u.min(), u.max()) == (0, 1)
        assert ((u > 0.05) & (u < 0.95)).mean() > 0.5


def test_what_counts_as_0_and_1_is_printed_where_the_data_decide(
    known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in MEASURES:
        annotate_samples(points(), known, device="cpu", uncertainty=name)
        assert ("counts as 0" in capsys.readouterr().out) == (name in ("energy", "mutual_information"))
    samples = points()
    done = annotate_samples(samples, known, device="cpu", uncertainty="energy")
    printed = capsys.readouterr().out
    assert done.annotation is not None
    assert done.annotation.classifier_bytes is not None
    energy = np.sort(-classifier()(torch.from_numpy(samples.data)).logsumexp(dim=1).numpy())
    assert f"energy of {energy[0]:.4g} or less counts as 0, of {energy[-1]:.4g} or more as 1" in printed


def test_the_passes_that_find_a_range_are_shown(
    known: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty masks for 20,000 images take a minute, which was silent."""
    monkeypatch.setattr("stylegan2_msp.progress._PLAIN_EVERY_SEC", 0)
    annotate_samples(points(), known, device="cpu", uncertainty="mutual_information")
    assert "finding the range of mutual information: " in capsys.readouterr().err


def test_a_classifier_that_is_as_sure_of_everything_is_warned_of(
    known: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate_samples(points(), known, device="cpu")
    assert "little to learn" not in capsys.readouterr().err
    sure = classifier()
    sure.net.layers[-1].bias.data[0] = 1000
    path = tmp_path / "sure.safetensors"
    path.write_bytes(sure.to_bytes())
    for name, title, at in (("msp", "MSP", "1.0000"), ("entropy", "entropy", "0.0000")):
        annotate_samples(points(), str(path), device="cpu", uncertainty=name)
        said = capsys.readouterr()
        assert f"{title} is {at} to {at} for 98 % of these points" in said.err
        assert "-0.00" not in said.out


def test_a_classifier_that_is_used_again_brings_its_measure_and_its_range(known: str, tmp_path: Path) -> None:
    train = annotate_samples(points(), known, device="cpu", uncertainty="energy")
    first = write_archive(tmp_path / "train.zip", train, progress=False)
    test = annotate_samples(points(200, seed=5), str(first), device="cpu")
    assert train.annotation is not None
    assert test.annotation is not None
    assert test.annotation.uncertainty == "energy"
    assert test.annotation.classifier_bytes == train.annotation.classifier_bytes
    other = annotate_samples(points(200, seed=5), str(first), device="cpu", uncertainty="entropy")
    assert other.annotation is not None
    assert other.annotation.uncertainty == "entropy"


@pytest.mark.slow
def test_a_built_in_classifier_is_trained_with_dropout_for_mutual_information() -> None:
    done = annotate_samples(moons(600, 0.3, 0, "train"), "train", device="cpu", uncertainty="mutual_information")
    assert done.annotation is not None
    assert done.annotation.classifier_bytes is not None
    frozen = FrozenClassifier.from_bytes(done.annotation.classifier_bytes)
    assert frozen.spec.arch_args == {"dropout": 25}
    # Where the answer is an even guess the masks disagree more than where it is sure.
    sure = done.annotation.probs.max(axis=1) > 0.99
    assert done.annotation.u[sure].mean() < done.annotation.u[~sure].mean() - 0.05


def test_mutual_information_without_dropout_is_refused_and_nothing_written(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    path.write_bytes(_without_dropout().to_bytes())
    with pytest.raises(UserError, match="this classifier has no dropout"):
        annotate_archive(plain, tmp_path / "x.zip", str(path), device="cpu", uncertainty="mutual_information")
    assert not (tmp_path / "x.zip").exists()


def _without_dropout() -> FrozenClassifier:
    args = {"hidden": 16, "num_hidden": 1}
    return FrozenClassifier(ClassifierSpec("mlp", "points", K, 0, 0, 2, 0, arch_args=args), SmallMLP(2, K, **args))


@pytest.mark.parametrize("method", ["temperature", "vector", "isotonic"])
def test_recalibration_mends_an_overconfident_classifier(
    known: str, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = points(3000, sharpness=3.0)  # the classifier's logits are three times too large
    path = write_archive(tmp_path / "plain.zip", samples, progress=False)
    out = annotate_archive(path, tmp_path / "out.zip", known, device="cpu", recalibration=method)
    printed = capsys.readouterr().out
    archive = open_archive(out)
    fresh = points(3000, seed=9, sharpness=3.0)
    frozen = FrozenClassifier.from_bytes(archive.classifier_bytes)
    before, after = (c.probs(torch.from_numpy(fresh.data)).numpy() for c in (classifier(), frozen))
    assert ece(before, fresh.classes) > 0.15
    assert ece(after, fresh.classes) < 0.06
    np.testing.assert_allclose(archive.probs, frozen.probs(torch.from_numpy(samples.data)).numpy(), atol=1e-6)
    np.testing.assert_allclose(archive.u, archive.probs.max(axis=1), atol=1e-6)
    found = json.loads((tmp_path / "out-calibration.json").read_text())
    assert (found["method"], found["fitted_on"], found["measured_on"]) == (method, 300, 300)
    assert found["after"]["ece"] < found["before"]["ece"]
    assert found["after"]["nll"] < found["before"]["nll"]
    assert found["after"]["brier"] < found["before"]["brier"]
    assert found == frozen.spec.report["calibration"]
    assert (tmp_path / "out-reliability.png").read_bytes()[:4] == b"\x89PNG"
    assert "bring unseen ones with --holdout" in printed
    assert f"{found['before']['ece']:.4f}" in printed
    if method == "temperature":
        assert found["temperature"] == pytest.approx(3.0, rel=0.25)


def test_recalibration_that_does_harm_is_warned_of(
    known: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = points(300)
    annotate_samples(
        samples, known, device="cpu", recalibration="temperature", holdout=_archive(points(4000), tmp_path)
    )
    assert "warning" not in capsys.readouterr().err
    named_right = replace(samples, classes=classifier()(torch.from_numpy(samples.data)).argmax(1).numpy())
    annotate_samples(named_right, known, device="cpu", recalibration="temperature")
    said = capsys.readouterr()
    assert "--recalibrate temperature: the classifier names all 30 samples right that it was fitted on" in said.err
    assert "-0.0000" not in said.out
    annotate_samples(samples, known, device="cpu", recalibration="vector", holdout=_archive(points(40, 2), tmp_path))
    assert "--recalibrate vector: NLL rises from" in capsys.readouterr().err


@pytest.mark.parametrize(("factor", "told"), [(0.01, True), (1.0, False)])
def test_outputs_that_are_as_near_as_those_of_sigmoids_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, told: bool
) -> None:
    net = classifier().net
    with torch.no_grad():
        net.layers[-1].weight.mul_(factor)
        net.layers[-1].bias.mul_(factor)
    frozen = FrozenClassifier(classifier().spec, net)
    samples = points(300)
    named_right = replace(samples, classes=frozen(torch.from_numpy(samples.data)).argmax(1).numpy())
    (tmp_path / "near.safetensors").write_bytes(frozen.to_bytes())
    annotate_samples(named_right, str(tmp_path / "near.safetensors"), device="cpu")
    said = capsys.readouterr().err
    assert ("outputs differ by less than 1 for every one of these, as those of sigmoids do" in said) == told


def _archive(samples: Samples, folder: Path) -> Path:
    return write_archive(folder / f"{len(samples)}.zip", samples, progress=False)


def test_holdout_is_what_is_fitted_on(known: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = write_archive(tmp_path / "plain.zip", points(100), progress=False)
    holdout = write_archive(tmp_path / "held.zip", points(2000, seed=4, sharpness=3.0), progress=False)
    annotate_archive(plain, None, known, device="cpu", recalibration="temperature", holdout=holdout)
    found = json.loads((tmp_path / "plain-calibration.json").read_text())
    assert (found["fitted_on"], found["measured_on"], found["held_out"]) == (1000, 1000, "all of held.zip")
    assert found["temperature"] == pytest.approx(3.0, rel=0.2)
    assert "--recalibrate: uses" not in capsys.readouterr().out


def test_a_classifier_that_is_used_again_keeps_its_recalibration_until_told_otherwise(
    known: str, tmp_path: Path
) -> None:
    samples = points(400, sharpness=3.0)
    first = annotate_samples(samples, known, device="cpu", recalibration="temperature", uncertainty="entropy")
    path = write_archive(tmp_path / "first.zip", first, progress=False)
    kept = annotate_samples(samples, str(path), device="cpu")
    np.testing.assert_array_equal(kept.annotation.u, first.annotation.u)
    plain = annotate_samples(samples, str(path), device="cpu", recalibration="none")
    np.testing.assert_allclose(
        plain.annotation.probs, classifier().probs(torch.from_numpy(samples.data)).numpy(), atol=1e-6
    )
    assert "calibration" not in FrozenClassifier.from_bytes(plain.annotation.classifier_bytes).spec.report
    assert not list(tmp_path.glob("*-calibration.json"))


@pytest.mark.slow
def test_a_classifier_trained_here_is_recalibrated_on_what_it_did_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylegan2_msp.data import recalibrate as module

    seen: list[Samples] = []
    plain_logits = module._raw_logits
    monkeypatch.setattr(module, "_raw_logits", lambda c, s, b: (seen.append(s), plain_logits(c, s, b))[1])
    samples = moons(600, 0.3, 0, "train")
    done = annotate_samples(samples, "train", seed=3, device="cpu", recalibration="temperature")
    _, rows = split_validation(torch.from_numpy(samples.classes), 2, torch.Generator().manual_seed(3))
    np.testing.assert_array_equal(seen[0].data, samples.data[rows.numpy()])
    report = FrozenClassifier.from_bytes(done.annotation.classifier_bytes).spec.report
    assert report["val_size"] == len(rows) == report["calibration"]["fitted_on"] + report["calibration"]["measured_on"]


def test_mistakes_are_one_line(plain: Path, known: str, tmp_path: Path) -> None:
    few = write_archive(tmp_path / "few.zip", points(12), progress=False)
    unlabelled = write_archive(
        tmp_path / "bare.zip", replace(points(50), classes=None, class_names=None), progress=False
    )
    other = write_archive(tmp_path / "other.zip", replace(points(50), class_names=["c", "a", "b"]), progress=False)
    cases = [
        ({"uncertainty": "vibes"}, r"--uncertainty vibes: is not one of msp, entropy"),
        ({"recalibration": "platt"}, r"--recalibrate platt: is not one of none, temperature"),
        ({"holdout": few}, r"--holdout: is what --recalibrate is fitted on"),
        ({"recalibration": "vector", "holdout": few}, r"12 held-out samples .* are fewer than 20"),
        ({"recalibration": "vector", "holdout": unlabelled}, r"--holdout: .* is unlabelled or other data"),
        ({"recalibration": "vector", "holdout": other}, r"other.zip has the classes c, a, b, the data a, b, c; give"),
        ({"uncertainty": "energy", "recalibration": "isotonic"}, r"--uncertainty energy: is .* for all of the data"),
    ]
    for options, message in cases:
        with pytest.raises(UserError, match=message):
            annotate_archive(plain, tmp_path / "x.zip", known, device="cpu", **options)
    assert not list(tmp_path.glob("x*"))


def _changed(source: Path, dest: Path, change) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(dest, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "dataset.json":
                manifest = json.loads(data)
                change(manifest)
                data = json.dumps(manifest).encode()
            new.writestr(info.filename, data)
    return dest


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("entropy", [1.2], r"entropy 1.2 lies outside \[0, 1\]"),
        ("margin", [-0.1], r"margin -0.1 lies outside \[0, 1\]"),
        ("energy", [float("nan")], r"holds NaN or infinity"),
        ("energy", [0.1, 0.2], r"found 5 numbers, 4 elsewhere"),
        ("softmax", [0.5, 0.5, 0.5], r"its softmax vector sums to 1.5"),
        ("softmax", [0.5, 0.7, -0.2], r"probability of the class -0.2 lies outside"),
        ("softmax", [0.9], r"found 4 numbers, 6 elsewhere"),
        ("entropy", [0.123], r"row 1 .*: entropy .*, its label says 0.123"),
        ("softmax", [0.2, 0.3, 0.5], r"row 1 .*: probability of the class .*, its label says 0.2, 0.3, 0.5"),
    ],
)
def test_a_label_out_of_range_is_one_line(
    plain: Path, known: str, tmp_path: Path, name: str, values: list[float], message: str
) -> None:
    out = annotate_archive(plain, tmp_path / "out.zip", known, device="cpu", uncertainty=name)

    def change(manifest: dict) -> None:
        manifest["labels"][1][1][K:] = values

    with pytest.raises(UserError, match=message):
        open_archive(_changed(out, tmp_path / "bad.zip", change))


def test_an_unknown_measure_is_named(plain: Path, known: str, tmp_path: Path) -> None:
    out = annotate_archive(plain, tmp_path / "out.zip", known, device="cpu")

    def change(manifest: dict) -> None:
        manifest["uncertainty"] = {"name": "vibes"}

    with pytest.raises(UserError, match=r"uncertainty: found .*vibes.*one of msp, entropy"):
        open_archive(_changed(out, tmp_path / "bad.zip", change))


def test_archives_without_the_field_are_msp(plain: Path, known: str, tmp_path: Path) -> None:
    out = annotate_archive(plain, tmp_path / "out.zip", known, device="cpu")
    old = _changed(out, tmp_path / "old.zip", lambda manifest: manifest.pop("uncertainty"))
    assert open_archive(old).uncertainty == "msp"
    np.testing.assert_array_equal(open_archive(old).labels(), open_archive(out).labels())


def blank_is_nan(tmp_path: Path) -> str:
    """A classifier of 8x8 images that standardises each of them, so that a blank one gives NaN."""
    (tmp_path / "standardise.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.linear, self.drop = torch.nn.Linear(64, 3), torch.nn.Dropout(0.2)\n"
        "    def forward(self, x):\n"
        "        x = x.flatten(1)\n"
        "        x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)\n"
        "        return self.linear(self.drop(x))\n"
        "def net():\n"
        "    return Net()\n"
    )
    return "standardise:net"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"uncertainty": "energy"},
        {"uncertainty": "softmax"},
        {"uncertainty": "mutual_information"},
        {"recalibration": "temperature"},
        {"recalibration": "isotonic"},
    ],
    ids=str,
)
def test_nan_for_some_sample_is_one_line_whatever_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "standardise", raising=False)
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (200, 1, 8, 8), dtype=np.uint8)
    data[17::40] = 128
    samples = Samples(data, default_names("images", 200), np.arange(200) % 3, ["a", "b", "c"])
    held = write_archive(tmp_path / "held.zip", samples, progress=False) if "recalibration" in more else None
    with pytest.raises(UserError, match="--classifier: gives NaN for sample 17; check its weights"):
        annotate_samples(samples, blank_is_nan(tmp_path), device="cpu", holdout=held, **more)


def test_a_recalibrated_classifier_that_gives_probabilities_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After recalibration the logarithms of its rows no longer add up; before, they must."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "sure", raising=False)
    (tmp_path / "helper.py").write_text("GAIN = 3.0\n")
    (tmp_path / "sure.py").write_text(
        "import torch\n"
        "def net():\n"
        "    from helper import GAIN\n"  # found when the factory is called, not when it is imported
        "    torch.manual_seed(0)\n"
        "    linear = torch.nn.Linear(64, 3)\n"
        "    linear.weight.data.mul_(GAIN)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), linear, torch.nn.Softmax(1))\n"
    )
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (200, 1, 8, 8), dtype=np.uint8)
    samples = Samples(data, default_names("images", 200), np.arange(200) % 3, ["a", "b", "c"])
    plain = write_archive(tmp_path / "plain.zip", samples, progress=False)
    first = annotate_archive(
        plain,
        tmp_path / "first.zip",
        "sure:net",
        device="cpu",
        declared=Declared(output="probs"),
        recalibration="temperature",
    )
    again = annotate_archive(plain, tmp_path / "again.zip", str(first), device="cpu")
    np.testing.assert_array_equal(open_archive(again).u, open_archive(first).u)


def test_what_an_archive_s_classifier_knows_of_itself_is_not_declared(plain: Path, known: str, tmp_path: Path) -> None:
    first = annotate_archive(plain, tmp_path / "first.zip", known, device="cpu")
    for source in (str(first), known):
        with pytest.raises(UserError, match="knows its input and output; leave out --input"):
            annotate_archive(plain, tmp_path / "x.zip", source, device="cpu", declared=Declared(mean=(0.9,)))
        with pytest.raises(UserError, match="--classifier-weights: goes with"):
            annotate_archive(plain, tmp_path / "x.zip", source, device="cpu", weights="w.safetensors")
