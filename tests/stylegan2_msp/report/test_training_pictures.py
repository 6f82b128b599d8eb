"""reals.png and fakesNNNNNN.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.generation import ConditionalGenerator
from stylegan2_msp.networks import build_network
from stylegan2_msp.report import training
from stylegan2_msp.snapshot import Snapshot


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been saved."""
    caught = []
    save = training.save_figure
    monkeypatch.setattr(training, "save_figure", lambda figure, path: (caught.append(figure), save(figure, path)))
    return caught


def words(figure):
    return [t.get_text() for t in figure.axes[0].texts]


def test_fakes_have_a_row_per_level_and_two_columns_for_each_of_ten_classes(tmp_path, figures, grey, digits_archive):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    training.save_fakes(tmp_path / "f.png", grey.G, grey.classifier, open_archive(digits_archive), "class+msp")
    assert torch.equal(before, torch.get_rng_state())
    assert (tmp_path / "f.png").stat().st_size > 0
    assert len(figures[0].axes[0].images) == 100
    heads = {"class 0\nseed 0", "class 0\nseed 10", "class 9\nseed 9", "class 9\nseed 19"}
    assert {"MSP 1.0", "MSP 0.9", "MSP 0.7", "MSP 0.5", "MSP 0.3", *heads} <= set(words(figures[0]))


@pytest.mark.parametrize(("condition", "c_dim", "columns"), [("class", 10, 20), ("none", 0, 10)])
def test_fakes_of_lesser_conditions(tmp_path, figures, digits_archive, condition, c_dim, columns):
    kwargs = {"z_dim": 8, "c_dim": c_dim, "w_dim": 8, "img_resolution": 16, "img_channels": 1}
    G = build_network("Generator", {**kwargs, "synthesis_kwargs": {"channel_base": 64, "channel_max": 4}}).eval()
    training.save_fakes(tmp_path / "f.png", G, None, open_archive(digits_archive), condition)
    assert len(figures[0].axes[0].images) == columns


def test_reals_show_the_nearest_images_to_each_level(tmp_path, figures, digits_archive):
    archive = open_archive(digits_archive)
    index = np.arange(0, 400, 2)
    training.save_reals(tmp_path / "r.png", archive, archive.load_images(progress=False)[index], index)
    msp, classes = archive.u[index], archive.classes[index]
    four = msp[classes == 4]
    nearest = [u for level in training.LEVELS for u in sorted(four, key=lambda u: abs(u - level))[:2]]
    assert {f"{u:.2f}" for u in nearest} <= set(words(figures[0]))
    assert len(figures[0].axes[0].images) == 100


def test_few_classes_have_three_columns_and_many_one():
    assert [training.columns_per_class(k) for k in (1, 2, 6, 7, 10, 11, 1000)] == [3, 3, 3, 2, 2, 1, 1]


def test_points(tmp_path, figures, moons_archive, points_snapshot):
    archive = open_archive(moons_archive)
    training.save_reals(tmp_path / "r.png", archive, archive.load_points(), np.arange(500))
    assert sum(len(c.get_offsets()) for c in figures[0].axes[0].collections) == 500
    torch.manual_seed(0)
    G = build_network("PointGenerator", {"z_dim": 8, "c_dim": 3})
    training.save_fakes(tmp_path / "f.png", G, None, archive, "class+msp")
    assert (tmp_path / "f.png").stat().st_size > 0


def test_levels_that_two_classes_can_have(points_snapshot):
    assert training.grid_levels(2) == [1.0, 0.9, 0.7, 0.5]
    info = {"kind": "points", "num_classes": 2, "class_names": None, "condition": "class+msp"}
    G = build_network("PointGenerator", {"z_dim": 8, "c_dim": 3})
    plan = training.fakes_plan(ConditionalGenerator(Snapshot(G, None, info, Path("x"))))
    assert list(plan.levels) == [1.0, 0.9, 0.7, 0.5]
