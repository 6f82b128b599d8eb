"""Values and gradients of the StyleGAN2-ADA reference, from arrays recorded once with it in float32."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylegan2_msp.networks import Discriminator, Generator

GOLDEN = Path(__file__).parents[2] / "golden"
TOLERANCE = 1e-4
ARGS: dict[str, dict[str, Any]] = {
    "mono32": {"c_dim": 11, "size": 32, "channels": 1, "layers": 2, "base": 512, "g": "skip", "d": "resnet"},
    "rgb64": {
        "c_dim": 11,
        "size": 64,
        "channels": 3,
        "layers": 8,
        "base": 512,
        "g": "skip",
        "d": "resnet",
        "clamp": 256,
    },
    "rgb16_orig": {"c_dim": 0, "size": 16, "channels": 3, "layers": 3, "base": 256, "g": "orig", "d": "skip"},
}


@cache
def _golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"networks_{name}.npz") as arrays:
        return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}


def _networks(name: str) -> tuple[Generator, Discriminator]:
    a = ARGS[name]
    shape = {"channel_base": a["base"], "channel_max": 16, "conv_clamp": a.get("clamp")}
    G = Generator(
        16,
        a["c_dim"],
        24,
        a["size"],
        a["channels"],
        mapping_kwargs={"num_layers": a["layers"], "embedding": "linear", "truncation": "global"},
        synthesis_kwargs={**shape, "architecture": a["g"]},
    )
    D = Discriminator(
        a["c_dim"], a["size"], a["channels"], architecture=a["d"], mapping_kwargs={"embedding": "linear"}, **shape
    )
    golden = _golden(name)
    G.load_state_dict({key[2:]: value for key, value in golden.items() if key.startswith("G.")})
    D.load_state_dict({key[2:]: value for key, value in golden.items() if key.startswith("D.")})
    return G.eval(), D.eval()


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest expected magnitude."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _check_gradients(module: torch.nn.Module, prefix: str, golden: dict[str, torch.Tensor]) -> None:
    found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    expected = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    assert expected
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        gradient = found.pop(name, torch.zeros_like(value))
        if value.abs().max() > 1e-6 * scale:
            assert _error(gradient, value) < TOLERANCE, name
        else:
            assert gradient.abs().max() < 1e-5 * scale, name
    assert all(g.abs().max() < 1e-5 * scale for g in found.values()), list(found)


@pytest.fixture(params=ARGS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_forward_values(name: str) -> None:
    golden = _golden(name)
    G, D = _networks(name)
    z, c = golden["z"], golden["c"]
    with torch.no_grad():
        assert _error(G.mapping(z, c), golden["ws"]) < TOLERANCE
        assert _error(G.mapping(z, c, truncation_psi=0.7), golden["ws_psi07"]) < TOLERANCE
        assert _error(G.synthesis(golden["ws"], noise_mode="const"), golden["img_const"]) < TOLERANCE
        fused = G.synthesis(golden["ws"], noise_mode="none", fused_modconv=True)
        assert _error(fused, golden["img_none"]) < TOLERANCE
        assert _error(G.synthesis(golden["ws"], noise_mode="none", fused_modconv=False), golden["img_none"]) < TOLERANCE
        truncated = G(z, c, truncation_psi=0.7, noise_mode="const")
        assert _error(truncated, golden["img_const_psi07"]) < TOLERANCE
        assert _error(D(golden["img_const"], c), golden["logits_of_fake"]) < TOLERANCE
        assert _error(D(golden["real"], c), golden["real_logits"]) < TOLERANCE


@pytest.mark.parametrize("training", [False, True])
def test_adversarial_gradients(name: str, training: bool) -> None:
    golden = _golden(name)
    G, D = _networks(name)
    G.train(training)
    ws = G.mapping(golden["z"], golden["c"], skip_w_avg_update=True)
    loss = F.softplus(-D(G.synthesis(ws, noise_mode="const"), golden["c"])).mean()
    loss.backward()
    assert _error(loss.detach(), golden["loss_G"]) < TOLERANCE
    _check_gradients(G, "grad_G_adv.", golden)


def test_path_length_gradients(name: str) -> None:
    golden = _golden(name)
    G, _ = _networks(name)
    ws = G.train().mapping(golden["z"], golden["c"], skip_w_avg_update=True)
    img = G.synthesis(ws, noise_mode="const")
    (slopes,) = torch.autograd.grad((img * golden["pl_noise"]).sum(), ws, create_graph=True)
    lengths = slopes.square().sum(2).mean(1).sqrt()
    assert _error(lengths.detach(), golden["pl_lengths"]) < TOLERANCE
    (lengths - 0.3).square().mean().backward()
    _check_gradients(G, "grad_G_pl.", golden)


def test_r1_gradients(name: str) -> None:
    golden = _golden(name)
    _, D = _networks(name)
    real = golden["real"].clone().requires_grad_()
    logits = D.train()(real, golden["c"])
    (slopes,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    penalty = slopes.square().sum([1, 2, 3])
    assert _error(penalty.detach(), golden["r1_penalty"]) < TOLERANCE
    (F.softplus(-logits)[:, 0] + 5 * penalty).mean().backward()
    _check_gradients(D, "grad_D_r1.", golden)
