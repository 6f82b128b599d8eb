"""A network that knows classes alone starts one that also knows an uncertainty, which has no effect yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stylegan2_msp.config import DataInfo, TrainConfig, resolve
from stylegan2_msp.errors import UserError
from stylegan2_msp.networks import Discriminator, Generator, build_network
from stylegan2_msp.snapshot import save_snapshot
from stylegan2_msp.training.launch import start
from stylegan2_msp.training.plan import Machine
from stylegan2_msp.training.transfer import adopted, load_weights, read_source, widened

K = 3
MAPPING = {"num_layers": 2, "embedding": "linear"}


def class_networks(c_dim: int = K) -> tuple[Generator, Discriminator]:
    """Networks of a shape that no preset has."""
    torch.manual_seed(3)
    synthesis = {"channel_base": 192, "channel_max": 12, "architecture": "resnet"}
    G = Generator(10, c_dim, 14, 16, 1, {**MAPPING, "truncation": "global", "embed_features": 9}, synthesis)
    D = Discriminator(c_dim, 16, 1, channel_base=192, channel_max=12, mapping_kwargs={**MAPPING, "embed_features": 7})
    with torch.no_grad():
        for parameter in [*G.parameters(), *D.parameters()]:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return G.eval(), D.eval()


def written(path: Path, G: Generator, D: Discriminator | None) -> Path:
    condition = "class" if G.c_dim else "none"
    save_snapshot(path, G, None, {"num_classes": G.c_dim, "condition": condition, "kind": "images"}, D)
    return path


def config_for(source: Path, **given: Any) -> TrainConfig:
    wanted = {"data": "x.zip", "cfg": "tiny", "cond_msp": True, **given}
    data = DataInfo("images", 16, 1, K, True, K if given.get("u_size") == K else 1)
    return adopted(resolve(wanted, data, 1, "cpu", False), read_source(source), wanted)


def started(source: Path, config: TrainConfig) -> SimpleNamespace:
    """New networks of the configuration after the weights came in."""
    torch.manual_seed(4)
    made = {name: build_network(config.G_name, config.G_kwargs) for name in ("G", "G_ema")}
    state = SimpleNamespace(**made, D=build_network(config.D_name, config.D_kwargs))
    load_weights(source, state, config)  # type: ignore[arg-type]
    return state


def inputs(c_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    one_hot = torch.eye(K)[[0, 1, 2, 2]]
    more = torch.rand(4, c_dim - K)
    return torch.randn(4, 10), one_hot, torch.cat([one_hot, more], dim=1)


@pytest.mark.parametrize("u_size", [1, K])
@pytest.mark.parametrize("embedding", [None, "linear", "split", "learned", "film"])
def test_uncertainty_starts_without_effect(tmp_path: Path, embedding: str | None, u_size: int) -> None:
    G, D = class_networks()
    source = written(tmp_path / "class.safetensors", G, D)
    config = config_for(source, embedding=embedding, u_size=u_size)
    assert config.G_kwargs["mapping_kwargs"]["embedding"] == (embedding or "split")
    state = started(source, config)
    z, c, cu = inputs(config.G_kwargs["c_dim"])
    img = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        for made in (state.G, state.G_ema):
            torch.testing.assert_close(made(z, cu, noise_mode="const"), G(z, c, noise_mode="const"), rtol=0, atol=1e-5)
            torch.testing.assert_close(made(z, cu, noise_mode="const"), made(z, cu.clone(), noise_mode="const"))
        torch.testing.assert_close(state.D(img, with_rank(cu)), D(img, c), rtol=0, atol=1e-5)


@pytest.mark.parametrize("embedding", ["linear", "split", "learned", "film"])
def test_sharpness_starts_without_effect(tmp_path: Path, embedding: str) -> None:
    """A run of before, whose D was told no more than G, goes on with one that is told the sharpness, and back."""
    torch.manual_seed(3)
    mapping = {"num_layers": 2, "embedding": embedding}
    G = Generator(10, K + 1, 14, 16, 1, mapping, {"channel_base": 192, "channel_max": 12})
    D = Discriminator(K + 1, 16, 1, channel_base=192, channel_max=12, mapping_kwargs=mapping)
    source = tmp_path / "msp.safetensors"
    save_snapshot(source, G, None, {"num_classes": K, "condition": "class+msp", "kind": "images"}, D)
    _, _, cu = inputs(K + 1)
    img = torch.randn(4, 1, 16, 16)
    state = started(source, config_for(source))
    assert all(torch.equal(v, state.G.state_dict()[k]) for k, v in G.state_dict().items())
    torch.testing.assert_close(state.D(img, with_rank(cu)), D(img, cu), rtol=0, atol=1e-5)
    state = started(source, config_for(source, sharpness=False))
    assert all(torch.equal(v, state.D.state_dict()[k]) for k, v in D.state_dict().items())


def with_rank(c: torch.Tensor) -> torch.Tensor:
    return torch.cat([c, torch.rand(len(c), 1)], dim=1)


@pytest.mark.parametrize("embedding", ["linear", "split", "learned", "film"])
def test_uncertainty_can_be_learned(tmp_path: Path, embedding: str) -> None:
    """The new weights are zero, but their gradients are not, so that the first steps change them."""
    G, D = class_networks()
    source = written(tmp_path / "class.safetensors", G, D)
    state = started(source, config_for(source, embedding=embedding))
    z, _, cu = inputs(K + 1)
    for step in range(2):
        w = state.G.mapping(z, cu)
        w.square().sum().backward()
        with torch.no_grad():
            for parameter in state.G.mapping.parameters():
                parameter.sub_(1e-2 * parameter.grad)
                parameter.grad = None
        assert step == 0 or not torch.allclose(w, state.G.mapping(z, cu * torch.tensor([1.0] * K + [0.1])), atol=1e-6)


def test_discriminator_without_mapping_layers(tmp_path: Path) -> None:
    """Networks of the TensorFlow era have none in D: there the embedding is what meets the features."""
    G, _ = class_networks()
    torch.manual_seed(3)
    mapping = {"num_layers": 0, "embedding": "linear"}
    D = Discriminator(K, 16, 1, channel_base=192, channel_max=12, mapping_kwargs=mapping)
    source = written(tmp_path / "class.safetensors", G, D)
    state = started(source, config_for(source))
    _, c, cu = inputs(K + 1)
    img = torch.randn(4, 1, 16, 16)
    torch.testing.assert_close(state.D(img, with_rank(cu)), D(img, c), rtol=0, atol=1e-5)


def test_generator_without_label(tmp_path: Path) -> None:
    """Most published networks have none; their images stay, whatever the label says."""
    G, D = class_networks(0)
    source = written(tmp_path / "none.safetensors", G, D)
    state = started(source, config_for(source))
    z, _, cu = inputs(K + 1)
    with torch.no_grad():
        torch.testing.assert_close(
            state.G(z, cu, noise_mode="const"), G(z, None, noise_mode="const"), rtol=0, atol=1e-5
        )


def test_same_label_keeps_everything(tmp_path: Path) -> None:
    G, D = class_networks()
    source = written(tmp_path / "class.safetensors", G, D)
    config = config_for(source, cond_msp=False, cond=True)
    state = started(source, config)
    assert all(torch.equal(v, state.G.state_dict()[k]) for k, v in G.state_dict().items())
    assert all(torch.equal(v, state.D.state_dict()[k]) for k, v in D.state_dict().items())


def test_precision_is_this_machine_s(tmp_path: Path) -> None:
    G, D = class_networks()
    source = written(tmp_path / "class.safetensors", G, D)
    wanted = {"data": "x.zip", "cfg": "tiny", "cond_msp": True}
    config = resolve(wanted, DataInfo("images", 16, 1, K, True), 1, "cpu", True)
    made = adopted(config, read_source(source), wanted)
    assert made.G_kwargs["synthesis_kwargs"]["half_dtype"] == "bfloat16"
    assert made.D_kwargs["num_fp16_res"] == config.D_kwargs["num_fp16_res"]
    assert made.D_kwargs["epilogue_kwargs"] == config.D_kwargs["epilogue_kwargs"]


def test_without_discriminator_one_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    G, _ = class_networks()
    source = written(tmp_path / "class.safetensors", G, None)
    started(source, config_for(source))
    assert "D starts anew" in capsys.readouterr().out


@pytest.mark.parametrize(("found", "told"), [({"img_resolution": 32}, "1 x 16 x 16 images"), ({}, "--z-dim 64")])
def test_what_does_not_fit_is_told(tmp_path: Path, found: dict[str, int], told: str) -> None:
    source = written(tmp_path / "class.safetensors", *class_networks())
    data = replace(DataInfo("images", 16, 1, K, True), **found)
    wanted = {"data": "x.zip", "cfg": "tiny", "cond_msp": True, "z_dim": None if found else 64}
    with pytest.raises(UserError, match=told):
        adopted(resolve(wanted, data, 1, "cpu", False), read_source(source), wanted)


def test_widened_layer_computes_the_same() -> None:
    """x W^T / sqrt(in), the definition of a layer with equalised learning rate."""
    torch.manual_seed(0)
    old, x, more = torch.randn(5, 4), torch.randn(7, 4), torch.randn(7, 3)
    wide = widened(old, torch.randn(5, 7))
    torch.testing.assert_close(torch.cat([x, more], 1) @ wide.t() / 7**0.5, x @ old.t() / 4**0.5)


@pytest.mark.parametrize("use_noise", [True, False])
def test_train_starts_from_a_snapshot_of_classes(digits_archive: Path, tmp_path: Path, use_noise: bool) -> None:
    """The command's own path: a run conditioned on MSP from an imported network, and its first answers."""
    torch.manual_seed(0)
    G = Generator(8, 10, 8, 16, 1, MAPPING, {"channel_base": 64, "channel_max": 8, "use_noise": use_noise})
    D = Discriminator(10, 16, 1, channel_base=64, channel_max=8, mapping_kwargs=MAPPING)
    path = tmp_path / "class.safetensors"
    save_snapshot(path, G, None, {"num_classes": 10, "condition": "class", "kind": "images"}, D)
    given = {"data": str(digits_archive), "cfg": "tiny", "cond_msp": True, "batch": 8, "kimg": 0.008, "metrics": "none"}
    assert start({**given, "tick": 0.008}, tmp_path / "runs", str(path), Machine(device="cpu")) == 0
    (snapshot,) = (tmp_path / "runs").glob("*/network-snapshot-*.safetensors")
    assert read_source(snapshot).kwargs["G"]["synthesis_kwargs"]["channel_max"] == 8


def test_own_run_of_classes_becomes_one_with_msp(digits_archive: Path, tmp_path: Path) -> None:
    """`--cond=1`, then `--resume` its snapshot: D comes from the state beside it, and both answer as they did."""
    given = {"data": str(digits_archive), "cfg": "tiny", "batch": 8, "kimg": 0.008, "tick": 0.008, "z_dim": 10}
    given |= {"metrics": "none", "precision": "fp32"}
    assert start({**given, "cond": True}, tmp_path, None, Machine(device="cpu")) == 0
    (snapshot,) = tmp_path.glob("*/network-snapshot-*.safetensors")
    source = read_source(snapshot)
    assert (source.label.classes, source.label.u, sorted(source.weights)) == (10, 0, ["D", "G", "G_ema"])
    wanted = {**given, "cond_msp": True}
    config = adopted(resolve(wanted, DataInfo("images", 16, 1, 10, True), 1, "cpu", False), source, wanted)
    state = started(snapshot, config)
    c = torch.eye(10)[[3, 7]]
    cu = torch.cat([c, torch.tensor([[0.2], [0.9]])], dim=1)
    z, img = torch.randn(2, 10), torch.randn(2, 1, 16, 16)
    for name, inputs_ in (("G", (z,)), ("G_ema", (z,)), ("D", (img,))):
        old = build_network("Discriminator" if name == "D" else "Generator", source.kwargs[name[0]])
        old.load_state_dict(source.weights[name])
        more = {} if name == "D" else {"noise_mode": "const"}
        with torch.no_grad():
            answer = getattr(state, name)(*inputs_, with_rank(cu) if name == "D" else cu, **more)
            torch.testing.assert_close(answer, old(*inputs_, c, **more), rtol=0, atol=1e-5)


def test_pickles_are_sent_to_import(digits_archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stylegan2-msp import"):
        start({"data": str(digits_archive)}, tmp_path, "network.pkl", Machine(device="cpu"))
    with pytest.raises(UserError, match="an address in the web; download it"):
        start({"data": str(digits_archive)}, tmp_path, "https://example.org/network.pkl", Machine(device="cpu"))
