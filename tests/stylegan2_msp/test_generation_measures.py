"""Generators conditioned on measures other than MSP: what is asked of them, what is answered, and how it is refused."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

from stylegan2_msp.classifiers import ClassifierSpec, FrozenClassifier
from stylegan2_msp.classifiers.builtin import SmallCNN
from stylegan2_msp.errors import UserError
from stylegan2_msp.generation import ConditionalGenerator, load_generator
from stylegan2_msp.networks import build_network
from stylegan2_msp.report.generated import level_label, make_plan
from stylegan2_msp.report.training import grid_levels
from stylegan2_msp.request import Request
from stylegan2_msp.seeds import latents
from stylegan2_msp.snapshot import Snapshot, save_snapshot
from stylegan2_msp.uncertainty import MEASURES, Energy, Entropy, Measure, MutualInformation, Softmax

K = 3
SHARES = ((0.0, 0.25, 0.75), (0.5, 0.0, 0.5), (0.9, 0.1, 0.0))
READY: dict[str, Measure] = {
    **{name: kind() for name, kind in MEASURES.items()},
    "energy": Energy(-8.0, 2.0),
    "mutual_information": MutualInformation(0.0, 0.4),
    "softmax": Softmax(SHARES),
}


def classifier(measure: Measure) -> FrozenClassifier:
    torch.manual_seed(0)
    args = {"width": 4, "hidden": 16, "dropout": 40}
    net = SmallCNN(16, 1, K, **args)
    with torch.no_grad():
        net.head[-1].weight.mul_(30)
    spec = ClassifierSpec("cnn", "images", K, 1, 16, 1, 16, arch_args=args, uncertainty=measure.settings())
    return FrozenClassifier(spec, net)


def network(measure: Measure) -> torch.nn.Module:
    torch.manual_seed(0)
    size = measure.size(K)
    kwargs = {
        "z_dim": 16,
        "w_dim": 16,
        "c_dim": K + size,
        "img_resolution": 16,
        "img_channels": 1,
        "mapping_kwargs": {"num_layers": 2, **({"u_dim": size} if size > 1 else {})},
        "synthesis_kwargs": {"channel_base": 128, "channel_max": 8},
    }
    return build_network("Generator", kwargs).eval()


def info(measure: Measure) -> dict[str, object]:
    return {"kind": "images", "num_classes": K, "condition": "class+msp", "uncertainty": measure.name, "kimg": 1.0}


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("measures")
    paths = {}
    for name, measure in READY.items():
        paths[name] = folder / name / "network-snapshot-000001.safetensors"
        paths[name].parent.mkdir()
        save_snapshot(paths[name], network(measure), classifier(measure).to_bytes(), info(measure))
    return paths


@pytest.mark.parametrize("name", list(MEASURES))
def test_a_level_becomes_the_label_and_the_answer_is_the_classifiers(snapshots, name: str) -> None:
    generator = load_generator(snapshots[name], "cpu")
    assert generator.measure == READY[name]
    wanted = generator.requests([2, 0], None, [5, 6], uncertainty=0.6)
    labels = generator.labels(wanted)
    assert labels[:, :K].tolist() == [[0, 0, 1], [1, 0, 0]]
    if name == "softmax":
        torch.testing.assert_close(labels[:, K:], torch.tensor([[0.36, 0.04, 0.6], [0.6, 0.1, 0.3]]))
    else:
        torch.testing.assert_close(labels[:, K:], torch.full((2, 1), 0.6))
    images = generator.sample([2, 0], seeds=[5, 6], uncertainty=[0.6, 0.6], within=None)
    ws = generator.G.mapping(latents([5, 6], 16), labels)
    torch.testing.assert_close(images, generator.G.synthesis(ws, noise_mode="const").clamp(-1, 1), atol=1e-5, rtol=1e-4)
    answers = generator.answers(images, wanted)
    frozen = classifier(READY[name])
    classes = torch.tensor([2, 0])
    measured = READY[name].level(frozen.uncertainty(images, classes), classes)
    assert [a.prediction for a in answers] == frozen(images).argmax(1).tolist()
    assert [a.u for a in answers] == pytest.approx(measured.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", list(MEASURES))
def test_without_a_level_the_certain_end_is_asked(snapshots, name: str) -> None:
    generator = load_generator(snapshots[name], "cpu")
    sure = 0.0 if name in ("entropy", "energy", "mutual_information") else 1.0
    assert generator.requests(None, None, [7]) == [Request(7, 1, sure)]
    assert make_plan(generator, [0], None, None).levels == ([0.0, 0.3] if sure == 0 else [1.0, 0.7])
    with pytest.raises(UserError, match="--seeds: names none"):
        make_plan(generator, [], None, None)


def test_whole_softmax_vectors(snapshots) -> None:
    generator = load_generator(snapshots["softmax"], "cpu")
    rows = [[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]
    wanted = generator.requests([0, 1], None, [0, 1], uncertainty=rows)
    torch.testing.assert_close(generator.labels(wanted)[:, K:], torch.tensor(rows))
    same = generator.sample(0, seeds=[0, 1], uncertainty=torch.tensor([[0.7, 0.1, 0.2]]))
    assert same.shape == (2, 1, 16, 16)
    by_level, by_vector = (generator.sample(0, seeds=[3], uncertainty=u) for u in (0.6, [[0.6, 0.1, 0.3]]))
    torch.testing.assert_close(by_level, by_vector)
    assert len(generator.sample(0, seeds=[3, 3, 3], uncertainty=[0.6, 0.1, 0.3])) == 3  # levels of the class
    assert len(generator.sample(0, seeds=3, uncertainty=[0.6, 0.2, 0.3])) == 3
    with pytest.raises(UserError, match=r"a softmax vector of 3 classes is given as \[vector\]"):
        generator.sample(0, seeds=3, uncertainty=[0.6, 0.1, 0.3])
    with pytest.raises(ValueError, match="found an array of 3 axes"):
        generator.sample(0, seeds=3, uncertainty=[[[0.6, 0.1, 0.3]]])
    for bad in ([[0.5, 0.5, 0.5]], [[1.2, -0.1, -0.1]], [[0.5, 0.5]]):
        with pytest.raises(UserError, match="must be 3 probabilities that sum to 1"):
            generator.sample(0, seeds=[0], uncertainty=bad)
    with pytest.raises(UserError, match="must be one number per item"):
        load_generator(snapshots["entropy"], "cpu").sample(0, seeds=[0], uncertainty=rows[:1])


def test_msp_is_another_name_only_where_the_measure_is_msp(snapshots) -> None:
    generator = load_generator(snapshots["msp"], "cpu")
    assert torch.equal(generator.sample(0, 0.7, [1]), generator.sample(0, seeds=[1], uncertainty=0.7))
    with pytest.raises(UserError, match="two names of one thing"):
        generator.sample(0, 0.7, [1], uncertainty=0.7)
    with pytest.raises(UserError, match=r"--msp: .* is conditioned on entropy \(0 certain, 1 uncertain\); use --unc"):
        load_generator(snapshots["entropy"], "cpu").sample(0, 0.7, [1])


@pytest.mark.parametrize("u", [-0.1, 1.1, float("nan")])
def test_levels_out_of_range_are_refused(snapshots, u: float) -> None:
    with pytest.raises(UserError, match=r"--uncertainty .*: entropy lies in \[0, 1\], 0 is certain"):
        load_generator(snapshots["entropy"], "cpu").sample(0, seeds=[0], uncertainty=u)


def test_the_rows_of_grids_run_from_certain_to_uncertain() -> None:
    assert grid_levels(10) == [1.0, 0.9, 0.7, 0.5, 0.3]
    assert grid_levels(2) == [1.0, 0.9, 0.7, 0.5]
    assert grid_levels(2, Entropy()) == pytest.approx([0.0, 0.1, 0.3, 0.5, 0.7])
    assert level_label(0.4, Entropy()) == "entropy 0.4"
    assert level_label(0.4, MutualInformation()) == "mutual information\n0.4"


def test_a_snapshot_whose_parts_disagree_is_refused(tmp_path: Path) -> None:
    net, frozen = network(Entropy()), classifier(Entropy())
    with pytest.raises(UserError, match=r"conditioned on margin, .*classifier gives entropy"):
        ConditionalGenerator(Snapshot(net, frozen, {**info(Entropy()), "uncertainty": "margin"}, tmp_path))
    with pytest.raises(UserError, match="'vibes', which this program does not know"):
        ConditionalGenerator(Snapshot(net, frozen, {**info(Entropy()), "uncertainty": "vibes"}, tmp_path))
    bare = ConditionalGenerator(Snapshot(network(Softmax()), None, info(Softmax()), tmp_path))
    with pytest.raises(UserError, match="holds no classifier; give whole softmax vectors"):
        bare.sample(0, seeds=[0], uncertainty=0.7)


def test_generate_writes_the_measures_name_everywhere(generate_cli, snapshots, tmp_path: Path) -> None:
    code, _, err = generate_cli(
        "--network", snapshots["entropy"], "--uncertainty", "0:0.8:3", "--seeds", "0-1", "--class", "1"
    )
    assert (code, err) == (0, "")
    with open(tmp_path / "out" / "generated.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answers = ["prediction", "uncertainty_out", "class_name", "uncertainty_given"]
    assert list(rows[0]) == ["file", "seed", "class", "uncertainty_in", *answers]
    assert [r["uncertainty_in"] for r in rows] == ["0", "0", "0.4", "0.4", "0.8", "0.8"]
    assert rows[2]["file"] == "class1-entropy0.40-seed0000.png"
    assert (tmp_path / "out" / rows[2]["file"]).is_file()
    assert (tmp_path / "out" / "grid.png").is_file()
    assert all(0 <= float(r["uncertainty_out"]) <= 1 for r in rows)


def test_generate_takes_both_names_for_msp_and_keeps_its_columns(generate_cli, snapshots, tmp_path: Path) -> None:
    tables = []
    for option in ("--msp", "--uncertainty"):
        code, _, _ = generate_cli(
            "--network", snapshots["msp"], option, "0.7", "--seeds", "0", "--outdir", option.strip("-")
        )
        assert code == 0
        tables.append((tmp_path / option.strip("-") / "generated.csv").read_text())
    assert tables[0] == tables[1]
    assert tables[0].startswith("file,seed,class,msp_in,prediction,msp_out,class_name,msp_given\n")


@pytest.mark.parametrize(
    ("name", "options", "code", "message"),
    [
        ("entropy", ["--msp", "0.7"], 1, "--msp: .* is conditioned on entropy"),
        ("softmax", ["--msp", "0.7"], 1, "is conditioned on probability of the class"),
        ("softmax", ["--uncertainty", "0.7", "--within", "0.1"], 1, "--within: the condition is a softmax vector"),
        ("msp", ["--msp", "0.7", "--uncertainty", "0.7"], 2, "two names of one option"),
        ("entropy", ["--uncertainty", "1.2"], 2, r"--uncertainty 1.2: must lie in \[0, 1\]"),
        ("entropy", ["--uncertainty", "nan"], 2, r"--uncertainty nan: must lie in \[0, 1\]"),
        ("entropy", ["--uncertainty", "often"], 2, "--uncertainty often: is not a number"),
        ("msp", ["--uncertainty", "0.2"], 1, "--msp 0.2: the largest of 3 class probabilities is never below 1/3"),
    ],
)
def test_mistakes_are_one_line(generate_cli, snapshots, name: str, options: list[str], code: int, message: str) -> None:
    found, _, err = generate_cli("--network", snapshots[name], *options)
    assert found == code
    assert re.search(message, err)
    assert err.count("\n") == 1


def test_every_measure_has_its_grid(generate_cli, snapshots, tmp_path: Path) -> None:
    for name in ("softmax", "mutual_information", "energy"):
        assert generate_cli("--network", snapshots[name], "--seeds", "0-3", "--outdir", name)[0] == 0
        assert (tmp_path / name / "grid.png").read_bytes()[:4] == b"\x89PNG"


def test_levels_are_searched_where_there_is_one_number_to_ask_for(generate_cli, snapshots) -> None:
    for name, more in (
        ("softmax", ()),
        ("energy", ()),
        ("energy", ("--within", "off")),
        ("softmax", ("--within", "off")),
    ):
        words = ("--network", snapshots[name], "--uncertainty", "0,1", "--seeds", "0-3", *more)
        code, out, _ = generate_cli(*words)
        assert code == 0
        assert "from the levels asked for" in out
        assert ("(levels searched until within 0.03)" in out) == (name == "energy" and not more)
        assert ("without '--within off' they come nearer" in out) == (name == "energy" and bool(more))
