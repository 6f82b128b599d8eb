"""What the judges are trained on and what is held out, without the training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stylegan2_msp.classifiers import train
from stylegan2_msp.data.archive import Archive, open_archive
from stylegan2_msp.metrics.judges import KINDS, Judges, corruption_kinds, make_judges
from stylegan2_msp.uncertainty import Msp

FEW = ["none"] * 250 + ["blur"] * 100 + ["noise"] * 50


@pytest.fixture
def archive(digits_archive: Path, tmp_path: Path) -> Archive:
    """Digits of which three kinds of corruption are claimed, in a folder of their own."""
    shutil.copy(digits_archive, tmp_path / "digits.zip")
    kinds: Any = SimpleNamespace(kind=FEW)
    return replace(open_archive(tmp_path / "digits.zip"), corruption=kinds)


@pytest.fixture
def held_out(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What each training, which takes no step here, leaves out."""
    seen: list[np.ndarray] = []
    split = train.split_validation

    def noted(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        parts = split(*args)
        seen.append(parts[1].numpy())
        return parts

    monkeypatch.setattr(train, "split_validation", noted)
    monkeypatch.setattr(train, "_fit", lambda *_: None)
    return seen


def made(archive: Archive) -> Judges:
    return make_judges(archive, archive.load_images(progress=False), Msp(), torch.device("cpu"))


def test_held_out_is_what_the_second_classifier_was_not_trained_on(archive: Archive, held_out: list[Any]) -> None:
    judges = made(archive)
    second, probe = held_out
    np.testing.assert_array_equal(judges.held_out, second)
    assert not np.array_equal(second, probe)
    assert judges.probe is not None
    assert (judges.second.num_classes, judges.probe.num_classes) == (10, len(KINDS))
    assert (judges.second.spec.arch, judges.probe.spec.arch) == ("residual", "cnn")


def test_the_unit_is_the_spread_of_the_second_classifiers_features(archive: Archive, held_out: list[Any]) -> None:
    """Root mean square distance from their mean, per feature: a common shift of all is no spread."""
    judges = made(archive)
    net, x = judges.second.net, torch.from_numpy(archive.load_images(progress=False)).float() / 127.5 - 1
    entering: list[torch.Tensor] = []
    handle = net.head.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0].detach()))  # type: ignore[union-attr]
    judges.second(x)
    handle.remove()
    features = entering[0].double().numpy()
    expected = np.sqrt(((features - features.mean(axis=0)) ** 2).mean())
    assert judges.unit == pytest.approx(expected, rel=1e-4)


def test_judges_of_other_data_are_not_taken_for_these(archive: Archive, held_out: list[Any]) -> None:
    made(archive)
    assert len(held_out) == 2
    made(archive)
    assert len(held_out) == 2
    archive.__dict__["content_sha256"] = "0" * 64  # another file of the same name
    made(archive)
    assert len(held_out) == 4


@pytest.mark.parametrize(("kinds", "known"), [(FEW, True), (FEW[:251], False), (FEW[:-49], False)])
def test_a_kind_that_is_hardly_there_is_not_told_apart(kinds: list[str], known: bool) -> None:
    archive: Any = SimpleNamespace(kind="images", corruption=SimpleNamespace(kind=kinds))
    found = corruption_kinds(archive)
    assert (found is not None) == known
    if found is not None:
        assert [KINDS[k] for k in found] == kinds
