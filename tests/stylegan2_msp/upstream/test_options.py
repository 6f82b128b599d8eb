"""Options of the patched scripts: what they change, and what they refuse. No checkout is needed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from stylegan2_msp.cli.train import train
from stylegan2_msp.data.archive import open_archive, write_archive
from stylegan2_msp.data.samples import Annotation, Samples
from stylegan2_msp.networks import Generator, build_network
from stylegan2_msp.snapshot import load_snapshot
from stylegan2_msp.upstream.adapter import Arguments, ReferenceGenerator
from stylegan2_msp.upstream.asking import Asked, set_centre
from stylegan2_msp.upstream.grid import grid_or, levels_by_class
from stylegan2_msp.upstream.loading import DATASET, Label, label_of, reading_ours
from stylegan2_msp.upstream.train_options import OPTIONS, Condition, condition_options

LAYERS: dict[str, Any] = {"mapping_kwargs": {"num_layers": 2}, "synthesis_kwargs": {"channel_base": 128}}


def network(c_dim: int, label: Label | None, cls: type[Generator] = Generator, channels: int = 1) -> Any:
    torch.manual_seed(0)
    kwargs = {"z_dim": 8, "c_dim": c_dim, "w_dim": 8, "img_resolution": 8, "img_channels": channels, **LAYERS}
    G = cls(**kwargs).eval().requires_grad_(False)
    G.msp_label = label  # type: ignore[assignment]
    return G


def archive(folder: Path, classifier: bytes | None) -> Path:
    random = np.random.RandomState(0)
    data = random.randint(0, 256, (12, 3, 16, 16)).astype(np.uint8)
    names = [f"00000/img{i:08d}.png" for i in range(12)]
    note = Annotation(random.uniform(0.4, 1, 12).astype(np.float32), classifier_bytes=classifier)
    write_archive(folder / "a.zip", Samples(data, names, classes=np.arange(12) % 3, annotation=note))
    return folder / "a.zip"


def arguments(path: Path, **more: Any) -> Any:
    networks = {
        name: Arguments(class_name="training.x", mapping_kwargs=Arguments()) for name in ("G_kwargs", "D_kwargs")
    }
    data = Arguments(path=str(path), xflip=False, use_labels=False, max_size=12)
    loss = Arguments(class_name="training.loss.StyleGAN2Loss", r1_gamma=1.0)
    return Arguments(training_set_kwargs=data, loss_kwargs=loss, random_seed=5, **networks, **more)


def test_without_our_options_nothing_changes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"gamma": 1.0, **dict.fromkeys(OPTIONS)}
    condition = Condition(options)
    assert options == {"gamma": 1.0}
    args = arguments(tmp_path / "nothing.zip")
    before = json.dumps(args)
    assert condition.applied("run", args) == ("run", args)
    assert json.dumps(args) == before


def test_condition_changes_data_networks_and_loss(tmp_path: Path, rgb_snapshot: Path) -> None:
    classifier = load_snapshot(rgb_snapshot).classifier
    assert classifier is not None
    path = archive(tmp_path, classifier.to_bytes())
    given = {"cond_msp": True, "flatten": 0.25, "consistency": 2.0, "embedding": "film", "label_noise": "auto"}
    desc, args = Condition({**dict.fromkeys(OPTIONS), **given}).applied("run", arguments(path))
    assert desc == "run-msp"
    data = args.training_set_kwargs
    assert (data.class_name, data.flatten, data.uncertainty, data.use_labels) == (DATASET, 0.25, "msp", True)
    assert args.G_kwargs.class_name.endswith("adapter.ReferenceGenerator")
    assert args.D_kwargs.class_name.endswith("adapter.ReferenceDiscriminator")
    assert args.G_kwargs.mapping_kwargs == args.D_kwargs.mapping_kwargs == {"embedding": "film"}
    loss = args.loss_kwargs
    assert (loss.consistency, loss.consistency_kimg, loss.num_classes, loss.seed, loss.r1_gamma) == (2, 20, 3, 5, 1)
    assert loss.consistency_class == loss.consistency_witness == 0  # the archive has no probabilities
    u = open_archive(path).levels()
    assert loss.label_noise == pytest.approx(1.06 * u.std(ddof=1) * len(u) ** -0.2, rel=1e-5)
    json.dumps(args)  # the checkout writes them to training_options.json


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"flatten": 0.5}, "--flatten: needs --cond-msp=1"),
        ({"classifier": "train", "cond_msp": False}, "--classifier: needs --cond-msp=1"),
        ({"cond_msp": True, "flatten": 2.0}, "--flatten: must be in"),
    ],
)
def test_options_that_contradict_each_other(given: dict[str, Any], said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        Condition({**dict.fromkeys(OPTIONS), **given})


def test_data_that_cannot_be_trained_on(tmp_path: Path) -> None:
    path = archive(tmp_path, None)
    flipped = arguments(path)
    flipped.training_set_kwargs.xflip = True
    with pytest.raises(click.UsageError, match="--mirror: a flipped image would keep"):
        Condition({"cond_msp": True}).applied("run", flipped)
    with pytest.raises(click.UsageError, match=r"--consistency: .* holds no classifier"):
        Condition({**dict.fromkeys(OPTIONS), "cond_msp": True, "consistency": 1.0}).applied("run", arguments(path))
    _, args = Condition({**dict.fromkeys(OPTIONS), "cond_msp": True}).applied("run", arguments(path))
    assert args.loss_kwargs.consistency == 0
    bare = open_archive(path).load()
    write_archive(tmp_path / "b.zip", Samples(bare.data, bare.names, classes=bare.classes))
    with pytest.raises(click.UsageError, match="has no MSP"):
        Condition({**dict.fromkeys(OPTIONS), "cond_msp": True}).applied("run", arguments(tmp_path / "b.zip"))


def test_a_classifier_of_other_images(tmp_path: Path, grey_snapshot: Path) -> None:
    classifier = load_snapshot(grey_snapshot).classifier
    assert classifier is not None
    path = archive(tmp_path, classifier.to_bytes())
    with pytest.raises(click.UsageError, match=r"its classifier .*\(10, 1, 16, 'msp'\).* is not for its images"):
        Condition({**dict.fromkeys(OPTIONS), "cond_msp": True}).applied("run", arguments(path))


def test_classes_alone_are_annotated_beside_the_data(tmp_path: Path, rgb_snapshot: Path) -> None:
    classifier = load_snapshot(rgb_snapshot).classifier
    assert classifier is not None
    (tmp_path / "f.safetensors").write_bytes(classifier.to_bytes())
    samples = open_archive(archive(tmp_path, None)).load()
    write_archive(tmp_path / "b.zip", Samples(samples.data, samples.names, classes=samples.classes))
    given = {"cond_msp": True, "classifier": str(tmp_path / "f.safetensors")}
    _, args = Condition({**dict.fromkeys(OPTIONS), **given}).applied("run", arguments(tmp_path / "b.zip"))
    found = open_archive(args.training_set_kwargs.path)
    assert args.loss_kwargs.archive == args.training_set_kwargs.path != str(tmp_path / "b.zip")
    _, msp = classifier.predict(torch.from_numpy(samples.data).float() / 127.5 - 1)
    np.testing.assert_allclose(found.levels(), msp.numpy(), atol=1e-5)


def test_options_are_those_of_our_train() -> None:
    @click.command()
    @condition_options
    def command(**options: Any) -> None:
        click.echo(json.dumps(options))

    said = CliRunner().invoke(command, ["--cond-msp=1", "--label-noise", "auto", "--flatten", "0"]).output
    assert json.loads(said) == {**dict.fromkeys(OPTIONS), "cond_msp": True, "label_noise": "auto", "flatten": 0.0}
    told, ours = (CliRunner().invoke(of, ["--help"]).output for of in (command, train))
    assert "when the data carry an MSP" in " ".join(ours.split())
    assert "when the data carry an MSP" not in " ".join(told.split())  # the checkout trains without unless told


def test_label_of_an_image() -> None:
    asked = Asked(network(4, Label(3)), None, 0.7, None)
    assert asked.class_or_any(None) == 0
    torch.testing.assert_close(asked.label(5, torch.zeros(1, 4)), torch.tensor([[0.0, 0.0, 1.0, 0.7]]))
    sure = Asked(network(4, Label(3)), 1, None, None)
    torch.testing.assert_close(sure.label(5, torch.zeros(1, 4)), torch.tensor([[0.0, 1.0, 0.0, 1.0]]))
    entropy = Asked(network(4, Label(3, "entropy")), 1, None, 0.25)
    torch.testing.assert_close(entropy.label(0, torch.zeros(1, 4)), torch.tensor([[0.0, 1.0, 0.0, 0.25]]))


def test_other_networks_are_asked_as_before() -> None:
    plain = torch.tensor([[0.0, 1.0, 0.0]])
    for label in (None, Label(3, size=0)):
        asked = Asked(network(3, label), 1, None, None)
        assert asked.class_or_any(None) is None
        assert asked.label(5, plain) is plain
    Asked(network(0, None), None, None, None).answer_none()


@pytest.mark.parametrize(
    ("c_dim", "label", "asked", "said"),
    [
        (0, None, (None, 0.7, None), "no label that could hold one"),
        (4, Label(4, size=0), (None, 0.7, None), "trained without uncertainty"),
        (4, Label(4, size=0), (1, None, 0.7), "trained without uncertainty"),
        (4, Label(3), (None, 0.2, None), r"--msp \(--uncertainty\) 0.2: MSP lies in"),
        (4, Label(3), (3, 0.7, None), "--class 3: choose one from 0 to 2"),
        (4, Label(3), (None, 0.7, 0.7), "two names of one option"),
        (4, Label(3, "entropy"), (None, 0.7, None), "use --uncertainty"),
        (6, Label(3, "softmax", 3), (None, None, 0.7), "softmax vectors"),
        (4, None, (3, 0.7, None), "--class 3: choose one from 0 to 2"),
    ],
)
def test_what_cannot_be_asked(c_dim: int, label: Label | None, asked: Any, said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        Asked(network(c_dim, label), *asked)


def test_none_becomes_the_label_and_w_avg_its_centre() -> None:
    G = network(4, Label(3))
    z = torch.randn(5, 8)
    c = torch.tensor([[0.0, 1.0, 0.0, 0.5]]).expand(5, -1)
    wanted = G.mapping(z, c)
    Asked(G, 1, 0.5, None).answer_none()
    torch.testing.assert_close(G.mapping(z, None), wanted)
    torch.testing.assert_close(G.mapping(z, None, truncation_psi=0.5), G.mapping(z, c, truncation_psi=0.5))
    many = G.mapping(torch.randn(20000, 8), c[:1].expand(20000, -1))[:, 0].mean(dim=0)
    torch.testing.assert_close(G.mapping.w_avg, many, atol=0.05, rtol=0)
    with pytest.raises(click.UsageError, match="--class: this network is conditional; choose one from 0 to 2"):
        Asked(network(4, Label(3)), None, None, None).answer_none()
    with pytest.raises(click.UsageError, match="choose one from 0 to 3"):
        Asked(network(4, None), None, None, None).answer_none()


def test_a_network_of_the_family_has_the_centre_that_import_gives_it() -> None:
    """`import --uncertainty msp`, then `generate --trunc`, makes the images of a patched checkout's generate.py."""
    G = network(4, None)
    c = torch.tensor([[0.0, 1.0, 0.0, 0.5]])
    wanted = G.mapping.centre_of(c, c)[0]

    class Foreign(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w_avg", torch.zeros(8))

        def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            ws: torch.Tensor = G.mapping(z, c)
            return ws

    foreign = Arguments(z_dim=8, c_dim=4, mapping=Foreign())
    set_centre(foreign, c)
    torch.testing.assert_close(foreign.mapping.w_avg, wanted)


def test_a_grey_generator_for_the_projector() -> None:
    G = network(4, Label(3))
    ws = G.mapping(torch.randn(2, 8), torch.eye(4)[:2])
    grey = G.synthesis(ws, noise_mode="const")
    Asked(G, 0, None, None).as_rgb()
    assert G.img_channels == 3
    torch.testing.assert_close(G.synthesis(ws, noise_mode="const"), grey.repeat(1, 3, 1, 1))


def test_ws_can_be_written_to() -> None:
    G = network(4, None, ReferenceGenerator)
    ws = G.mapping(torch.randn(2, 8), torch.eye(4)[:2])
    ws[:, 1:] = 0
    assert ws[:, 0].abs().sum() > 0


def test_what_a_pickle_says_of_its_label() -> None:
    G = network(4, None)
    info = json.dumps({"num_classes": 3, "uncertainty": "entropy", "condition": "class+msp"})
    trained = {"class_name": DATASET, "uncertainty": "margin"}
    assert label_of({"G_ema": G, "stylegan2_msp": {"info": info}}) == Label(3, "entropy")
    classes = {"num_classes": 4, "uncertainty": None, "condition": "class"}
    assert label_of({"G_ema": G, "stylegan2_msp": {"info": json.dumps(classes)}}) == Label(4, size=0)
    assert label_of({"G_ema": G, "training_set_kwargs": trained}) == Label(3, "margin")
    assert label_of({"G_ema": G, "training_set_kwargs": {"class_name": "training.dataset.ImageFolderDataset"}}) is None
    vector = {"G_ema": network(6, None), "training_set_kwargs": {"class_name": DATASET, "uncertainty": "softmax"}}
    assert label_of(vector) == Label(3, "softmax", 3)
    assert label_of({"G_ema": network(0, None), "training_set_kwargs": None}) is None


def test_our_snapshots_load_beside_pickles(grey_snapshot: Path) -> None:
    seen = []

    def plain(f: Any) -> dict[str, Any]:
        seen.append(f.read())
        return {"G_ema": network(4, None)}

    load = reading_ours(plain)
    with open(grey_snapshot, "rb") as file:
        data = load(file)
    assert data["G_ema"].msp_label == Label(10)
    assert not seen
    wanted = load_snapshot(grey_snapshot).G.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in data["G_ema"].state_dict().items())
    load(io.BytesIO(b"\x80\x04 a pickle"))
    assert seen == [b"\x80\x04 a pickle"]


def test_grid_asks_for_levels_by_class() -> None:
    classes, levels = np.array([0, 0, 0, 1, 1, 1]), np.array([1.0, 0.7, 0.4, 0.95, 0.6, 0.45])
    grid, picked = levels_by_class(classes, levels, 3, width=3, height=3)
    assert grid == (2, 3)
    assert picked == [0, 3, 1, 4, 2, 5]
    grid, picked = levels_by_class(classes, levels, 3, width=4, height=1)
    assert grid == (4, 1)
    assert picked == [0, 1, 3, 4]


def test_grid_of_other_data_is_the_checkout_s() -> None:
    assert grid_or(lambda data, seed: ("as before", data, seed))("data", 3) == ("as before", "data", 3)  # type: ignore[arg-type, return-value, comparison-overlap]


def test_networks_of_the_adapter_are_ours() -> None:
    G = network(4, None, ReferenceGenerator)
    twin = build_network("Generator", json.loads(json.dumps(G.init_kwargs)))
    twin.load_state_dict(G.state_dict())
    z, c = torch.randn(2, 8), torch.eye(4)[:2]
    torch.testing.assert_close(G(z, c, noise_mode="const"), twin.eval()(z, c, noise_mode="const"))
