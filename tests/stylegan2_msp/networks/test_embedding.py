"""Members of the embeddings' family beyond the default: by their formulas, for one number and for softmax vectors."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.networks import EMBEDDINGS, MappingNetwork, build_network
from stylegan2_msp.networks.embedding import FeatureScaling, FourierFeatures, LearnedFeatures, make_embedding
from stylegan2_msp.networks.layers import normalize_2nd_moment
from stylegan2_msp.networks.points import PointLabels

K = 3
SMALL = {"img_resolution": 8, "img_channels": 1}
NAMES = ["linear", "split", "learned", "film"]


def _labels(u_dim: int) -> torch.Tensor:
    """One label per class and two levels; vectors hold p of the class and equal shares of the rest."""
    classes = [0, 1, 2, 0, 1, 2]
    u = torch.tensor([0.9, 0.9, 0.9, 0.4, 0.4, 0.4])
    if u_dim == 1:
        return make_labels(classes, u, K)
    p = ((1 - u) / (K - 1))[:, None].repeat(1, K)
    return make_labels(classes, p.scatter(1, torch.tensor(classes)[:, None], u[:, None]), K)


def _networks(embedding: str, u_dim: int) -> dict[str, dict[str, Any]]:
    label: dict[str, Any] = {"c_dim": K + u_dim}
    own = {"embedding": embedding, "u_dim": u_dim}
    channels = {"channel_base": 64, "channel_max": 8}
    return {
        "Generator": {
            **SMALL, **label, "z_dim": 5, "w_dim": 7,
            "mapping_kwargs": {"num_layers": 2, **own}, "synthesis_kwargs": channels,
        },
        "Discriminator": {
            **SMALL, **label, **channels,
            "mapping_kwargs": {"num_layers": 1, **own}, "epilogue_kwargs": {"mbstd_group_size": 1},
        },
        "PointGenerator": {**label, "hidden": 12, "w_dim": 9, "mapping_kwargs": own},
        "PointDiscriminator": {**label, "hidden": 12, "mapping_kwargs": own},
    }  # fmt: skip


@pytest.mark.parametrize("u_dim", [1, K])
@pytest.mark.parametrize("embedding", NAMES)
@pytest.mark.parametrize("network", ["Generator", "Discriminator", "PointGenerator", "PointDiscriminator"])
def test_every_network_follows_class_and_u_and_is_rebuilt_from_json(network: str, embedding: str, u_dim: int) -> None:
    torch.manual_seed(0)
    kwargs = _networks(embedding, u_dim)[network]
    first = build_network(network, kwargs).eval()
    second = build_network(network, json.loads(json.dumps(first.init_kwargs))).eval()
    second.load_state_dict(first.state_dict())
    c = _labels(u_dim)
    points, generates = network.startswith("Point"), network.endswith("Generator")
    shape = (first.z_dim,) if generates else (2,) if points else (1, 8, 8)
    x = torch.randn(1, *shape).expand(6, *shape)
    if network == "Discriminator":  # with the same image six times, only the label tells the rows apart
        x = x.contiguous()
    y = first(x, c, noise_mode="const") if generates else first(x, c)
    again = second(x, c, noise_mode="const") if generates else second(x, c)
    assert torch.equal(y, again)
    rows = y.flatten(1)
    assert (rows[0] - rows[1]).abs().max() > 1e-4, "the class changes nothing"
    assert (rows[0] - rows[3]).abs().max() > 1e-4, "u changes nothing"
    y.square().sum().backward()
    assert all(p.grad is not None for name, p in first.named_parameters() if "embed" in name or "film" in name)


def test_film_by_its_formula() -> None:
    """Before each layer: gamma and beta are affine in the Fourier features of u; x becomes (1 + gamma) x + beta."""
    torch.manual_seed(0)
    mapping = MappingNetwork(4, K + 1, 6, None, num_layers=2, lr_multiplier=1, embedding="film").eval()
    z, c = torch.randn(6, 4), _labels(1)
    w = mapping.to_w(z, c)
    for row in range(6):
        u = float(c[row, -1])
        octaves = [math.pi * 2**k * u for k in range(5)]
        features = torch.tensor([math.cos(a) for a in octaves] + [math.sin(a) for a in octaves]) * math.sqrt(2)
        by_class = mapping.embed.by_class.weight[:, int(c[row, :K].argmax())] / math.sqrt(K)
        x = torch.cat([normalize_2nd_moment(z[row : row + 1]), normalize_2nd_moment(by_class[None])], dim=1)[0]
        for i in range(2):
            made = mapping.film.layers[i].weight @ features / math.sqrt(10)
            x = (1 + made[: len(x)]) * x + made[len(x) :]
            fc = mapping.get_submodule(f"fc{i}")
            x = fc.weight @ x / math.sqrt(len(x))
            x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
        torch.testing.assert_close(w[row], x, rtol=1e-4, atol=1e-5)


def test_film_gets_u_by_scaling_only() -> None:
    """With every gamma and beta at zero the networks no longer see u."""
    c = _labels(1)
    for name, kwargs in _networks("film", 1).items():
        torch.manual_seed(0)
        network = build_network(name, kwargs).eval()
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, FeatureScaling):
                    for parameter in module.parameters():
                        parameter.zero_()
        shape = (network.z_dim,) if name.endswith("Generator") else (2,) if "Point" in name else (1, 8, 8)
        x = torch.randn(1, *shape).repeat(6, *[1] * len(shape))
        y = network(x, c, noise_mode="const") if name.endswith("Generator") else network(x, c)
        torch.testing.assert_close(y[:3], y[3:])


def test_learned_features_are_their_layers_normalised() -> None:
    torch.manual_seed(0)
    features = LearnedFeatures(10)
    u = torch.linspace(0, 1, 7)
    x = u[:, None]
    for layer, gain in zip(features.layers, (1, 64, 64), strict=True):
        x = x @ layer.weight.t() / math.sqrt(gain) + layer.bias
        if layer.activation == "lrelu":
            x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    expected = x / x.square().mean(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(features(u), expected, rtol=1e-4, atol=1e-5)


def test_learned_features_tell_levels_apart_from_the_start() -> None:
    """Kinks of the first layer lie within [0, 1], and levels 0.1 apart are not parallel."""
    torch.manual_seed(0)
    features = LearnedFeatures(128)
    first = features.layers[0]
    kinks = (-first.bias / first.weight[:, 0]).detach()
    assert 0 <= float(kinks.min()) < 0.2
    assert 0.8 < float(kinks.max()) <= 1
    y = features(torch.linspace(0, 1, 11)).detach()
    assert (y[1:] - y[:-1]).norm(dim=1).min() > 0.05 * y.norm(dim=1).mean()


@pytest.mark.parametrize("name", ["split", "learned"])
def test_vectors_keep_class_and_p_apart(name: str) -> None:
    torch.manual_seed(0)
    y = make_embedding(name, 2 * K, 8, u_dim=K)(_labels(K))
    torch.testing.assert_close(y[0, :4], y[3, :4])
    for part in (y[:, :4], y[:, 4:]):
        torch.testing.assert_close(part.square().mean(dim=1), torch.ones(6), rtol=1e-4, atol=1e-4)


def test_fourier_features_of_a_vector_are_those_of_its_numbers() -> None:
    p = torch.rand(5, K)
    one = FourierFeatures(4)
    expected = torch.cat([one(p[:, k]) for k in range(K)], dim=1)
    assert torch.equal(FourierFeatures(4, u_dim=K)(p), expected)


def test_points_see_the_linear_label_as_it_is() -> None:
    c = _labels(K)
    assert torch.equal(PointLabels("linear", 2 * K, K)(c), c)
    assert torch.equal(PointLabels("film", 2 * K, K)(c), c[:, :K] * math.sqrt(K))


def test_wrong_arguments_are_named() -> None:
    assert set(EMBEDDINGS) == set(NAMES)
    with pytest.raises(ValueError, match="u_dim must lie in"):
        make_embedding("split", 3, 8, u_dim=4)
    with pytest.raises(ValueError, match="needs a class"):
        make_embedding("film", 1, 8)
