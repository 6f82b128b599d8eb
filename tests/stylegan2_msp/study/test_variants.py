"""What each variant of a study is as `train` understands it: how its configuration differs from that of "ours"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stylegan2_msp.cli.train import train
from stylegan2_msp.study import run as study_run
from stylegan2_msp.study.experiments import EXPERIMENTS
from stylegan2_msp.study.run import Study

LINEAR = {"G.embedding": "linear", "D.embedding": "linear"}
OF_POINTS_NO_TERM = {"consistency": 0, "consistency_class": 0}  # they have no witness
NO_TERM = {**OF_POINTS_NO_TERM, "consistency_witness": 0}
NO_SHARPNESS = {"sharpness": False, "D.c_dim": 11, "D.u_dim": None}
PLAIN = {**NO_TERM, **LINEAR, **NO_SHARPNESS, "flatten": 0, "diversity": 0}
OF_IMAGES: dict[str, dict[str, Any]] = {
    "ours": {},
    "plain": PLAIN,
    "ours, no term": {**NO_TERM, "flatten": 0.1, "diversity": 0},
    "class-only": {**PLAIN, "condition": "class", "G.c_dim": 10, "D.c_dim": 10, "metrics": "none"},
    "no consistency": NO_TERM,
    "no class term": {"consistency_class": 0},
    "no flattening": {"flatten": 0},
    "linear embedding": LINEAR,
    "learned embedding": {"G.embedding": "learned", "D.embedding": "learned"},
    "FiLM": {"G.embedding": "film", "D.embedding": "film"},
    "label noise": {"label_noise": "auto"},
    "vicinal": {"label_noise": "auto", "vicinal": 0.02},
    "uniform levels": {"consistency_uniform": 1},
    "no sharpness": NO_SHARPNESS,
    "no diversity term": {"diversity": 0},
    "augmented term": {"consistency_augment": 0.25},
    "no witness": {"consistency_witness": 0},
}
OF_POINTS = {
    **OF_IMAGES,
    "plain": {**OF_POINTS_NO_TERM, **LINEAR, "flatten": 0},  # points have neither sharpness nor diversity
    "no consistency": OF_POINTS_NO_TERM,
}


def _flat(config: dict[str, Any], place: str = "") -> dict[str, Any]:
    """By the names of the options, the networks' arguments as G.name and D.name."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, place or f"{name[0]}.")
        else:
            found[place + name] = value
    return found


@pytest.mark.parametrize(
    ("experiment", "data"), [("digits", "digits"), ("ablation", "digits"), ("moons-ablation", "moons")]
)
def test_a_variant_differs_from_ours_in_what_it_is_named_after(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: str, data: str
) -> None:
    archive = request.getfixturevalue(f"{data}_archive")
    found: dict[str, dict[str, Any]] = {}

    def call(*words: str) -> None:
        if words[0] == "train":
            done = CliRunner().invoke(train, [*words[1:], "--dry-run"])
            assert done.exit_code == 0, done.output
            found[Path(words[words.index("--outdir") + 1]).name] = _flat(json.loads(done.output.split("Dry run")[0]))

    monkeypatch.setattr(study_run, "_call", call)
    monkeypatch.setattr(Study, "_data", lambda *_: archive)
    study = Study(EXPERIMENTS[experiment], tmp_path, (5,), 0.5, None, "cpu", 1)
    variants = [v for v in study.experiment.variants if v.of is None and v.measure == "msp"]
    for variant in variants:
        study._train(variant, 5, archive)
    ours = found["ours-seed5"]
    assert (ours["seed"], ours["kimg"]) == (5, 0.5 * study.experiment.kimg)
    for variant in variants:
        config = found[f"{study_run._as_file(variant.name)}-seed5"]
        differs = {name: config.get(name) for name in {*config, *ours} if config.get(name) != ours.get(name)}
        assert differs == (OF_POINTS if data == "moons" else OF_IMAGES)[variant.name], variant.name
