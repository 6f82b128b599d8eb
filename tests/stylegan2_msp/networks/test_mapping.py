"""The label's embedding and the centres that truncation pulls towards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stylegan2_msp.conditioning import make_labels
from stylegan2_msp.networks import EMBEDDINGS, MappingNetwork, PointGenerator, register_embedding
from stylegan2_msp.networks.embedding import FourierFeatures, SplitEmbedding
from stylegan2_msp.networks.layers import normalize_2nd_moment
from stylegan2_msp.networks.mapping import MappingBase

K = 10


def _mapping(**kwargs: object) -> MappingNetwork:
    torch.manual_seed(0)
    settings: dict[str, object] = {"num_layers": 2, "truncation_samples": 64, **kwargs}
    return MappingNetwork(8, K + 1, 12, 5, **settings).eval()  # type: ignore[arg-type]


def _labels() -> torch.Tensor:
    return make_labels([3, 3, 5], [0.9, 0.4, 0.9], K)


def test_fourier_features_by_their_formula() -> None:
    u = torch.tensor([0.1, 0.5, 1.0])
    found = FourierFeatures(3)(u)
    octaves = [1, 2, 4]
    for row, value in zip(found, u, strict=True):
        expected = [2**0.5 * torch.cos(torch.pi * k * value) for k in octaves]
        expected += [2**0.5 * torch.sin(torch.pi * k * value) for k in octaves]
        torch.testing.assert_close(row, torch.stack(expected))
        assert row.square().mean().item() == pytest.approx(1)


@pytest.mark.parametrize("features", [16, 33, 512])
def test_split_gives_class_and_u_unit_second_moment_each(features: int) -> None:
    torch.manual_seed(0)
    embedding = SplitEmbedding(K + 1, features)
    y = embedding(make_labels(list(range(K)), torch.linspace(0.1, 1, K), K))
    assert y.shape == (K, features)
    for part in (y[:, : features // 2], y[:, features // 2 :]):
        torch.testing.assert_close(part.square().mean(dim=1), torch.ones(K), rtol=1e-4, atol=1e-4)


def test_split_keeps_class_and_u_apart() -> None:
    torch.manual_seed(0)
    y = SplitEmbedding(K + 1, 64)(make_labels([1, 1, 2], [0.9, 0.3, 0.9], K))
    torch.testing.assert_close(y[0, :32], y[1, :32])
    torch.testing.assert_close(y[0, 32:], y[2, 32:])
    assert torch.nn.functional.cosine_similarity(y[0, :32], y[2, :32], dim=0) < 0.9


def test_split_sees_small_changes_of_u_where_linear_is_nearly_blind() -> None:
    """Distance between neighbouring u relative to the length of the embedding."""

    def moved(name: str, low: float, high: float) -> float:
        torch.manual_seed(0)
        y = EMBEDDINGS[name](K + 1, 256)(make_labels([1, 1], [low, high], K)).detach()
        return float((y[0] - y[1]).norm() / y[0].norm())

    assert moved("split", 0.95, 1.0) > 0.3
    assert moved("split", 0.3, 0.4) > 0.3
    assert moved("split", 0.95, 1.0) > 5 * moved("linear", 0.95, 1.0)


def test_only_u() -> None:
    y = SplitEmbedding(1, 16)(torch.tensor([[0.2], [0.8]]))
    torch.testing.assert_close(y.square().mean(dim=1), torch.ones(2), rtol=1e-4, atol=1e-4)


def test_embeddings_can_be_added() -> None:
    class Zero(nn.Module):
        def __init__(self, c_dim: int, features: int, u_dim: int) -> None:
            super().__init__()
            self.features = features

        def forward(self, c: torch.Tensor) -> torch.Tensor:
            return c.new_zeros([len(c), self.features])

    register_embedding("zero")(Zero)
    try:
        mapping, z = _mapping(embedding="zero"), torch.randn(1, 8)
        torch.testing.assert_close(mapping(z, _labels()[:1]), mapping(z, _labels()[1:2]))
    finally:
        del EMBEDDINGS["zero"]
    with pytest.raises(ValueError, match="embedding must be one of"):
        _mapping(embedding="zero")


def _point_mapping() -> MappingBase:
    torch.manual_seed(0)
    return PointGenerator(8, K + 1, 12, 16, mapping_kwargs={"truncation_samples": 64}).eval().mapping


@pytest.mark.parametrize("make", [_mapping, _point_mapping])
def test_truncation_pulls_towards_the_mean_of_its_own_label(make: object) -> None:
    mapping: MappingBase = make()  # type: ignore[operator]
    c, z = _labels(), torch.randn(3, 8)
    fixed = mapping.centre.z()
    centres = torch.stack([mapping.to_w(fixed, row.expand(64, -1)).mean(dim=0) for row in c])[:, None]
    ws = mapping(z, c)
    torch.testing.assert_close(mapping(z, c, truncation_psi=0), centres.expand_as(ws))
    torch.testing.assert_close(mapping(z, c, truncation_psi=0.6), centres + 0.6 * (ws - centres))
    assert (centres[0] - centres[1]).norm() > 1e-4
    assert (centres[0] - centres[2]).norm() > 1e-4


@pytest.mark.parametrize("psi", [0.0, 0.4, 1.0])
def test_truncation_passes_gradients_to_the_label(psi: float) -> None:
    """Both ends of the line to the centre move with the label; the literal formula, mean and all, by autograd."""
    mapping = _mapping()
    z, c = torch.randn(3, 8), _labels().requires_grad_()
    mapping(z, c.detach(), truncation_psi=0.5)  # centres that are kept have no gradient
    weights = torch.randn(3, 5, 12)
    (found,) = torch.autograd.grad((mapping(z, c, truncation_psi=psi) * weights).sum(), c)
    centres = torch.stack([mapping.to_w(mapping.centre.z(), row.expand(64, -1)).mean(dim=0) for row in c])
    w = centres + psi * (mapping.to_w(z, c) - centres)
    (expected,) = torch.autograd.grad((w[:, None] * weights).sum(), c)
    assert expected[:, -1].abs().min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_truncation_does_not_depend_on_the_default_dtype() -> None:
    z = _mapping().centre.z()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(_mapping().centre.z(), z)
        assert z.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_truncation_cutoff_leaves_later_layers_alone() -> None:
    mapping, c, z = _mapping(), _labels(), torch.randn(3, 8)
    ws, part = mapping(z, c), mapping(z, c, truncation_psi=0.5, truncation_cutoff=2)
    torch.testing.assert_close(part[:, 2:], ws[:, 2:])
    torch.testing.assert_close(part[:, :2], mapping(z, c, truncation_psi=0.5)[:, :2])


def test_centres_are_kept_until_the_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping, c, z = _mapping(), _labels(), torch.randn(3, 8)
    runs: list[int] = []
    to_w = mapping.to_w

    def counted(z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        runs.append(len(c))
        return to_w(z, c)

    monkeypatch.setattr(mapping, "to_w", counted)
    mapping(z, c, truncation_psi=0.5)
    assert runs == [3, 3 * 64]
    mapping(z.repeat(2, 1), c.repeat(2, 1), truncation_psi=0.7)
    assert runs[2:] == [6]
    mapping(z, make_labels([3, 4, 4], [0.9, 0.4, 0.4], K), truncation_psi=0.7)
    assert runs[3:] == [3, 64]
    before = mapping(z, c, truncation_psi=0)
    with torch.no_grad():
        mapping.get_parameter("fc0.weight").mul_(2)
    assert not torch.allclose(mapping(z, c, truncation_psi=0), before)


def test_truncation_leaves_random_numbers_and_training_alone() -> None:
    mapping, c, z = _mapping().train(), _labels(), torch.randn(3, 8)
    state, average = torch.get_rng_state(), mapping.w_avg.clone()
    mapping(z, c, truncation_psi=0.5, skip_w_avg_update=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(mapping.w_avg, average)


def test_copies_have_their_own_centres() -> None:
    mapping, c, z = _mapping(), _labels(), torch.randn(3, 8)
    before = mapping(z, c, truncation_psi=0)
    other = copy.deepcopy(mapping)
    torch.testing.assert_close(other(z, c, truncation_psi=0), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(other(z, c, truncation_psi=0), before)
    torch.testing.assert_close(mapping(z, c, truncation_psi=0), before)


def test_running_mean_of_w() -> None:
    mapping, c, z = _mapping(w_avg_beta=0.9).train(), _labels(), torch.randn(3, 8)
    w = mapping.to_w(z, c).detach().mean(dim=0)
    mapping(z, c)
    torch.testing.assert_close(mapping.w_avg, 0.1 * w)
    mapping(z, c)
    torch.testing.assert_close(mapping.w_avg, 0.19 * w)
    mapping.eval()(z, c)
    torch.testing.assert_close(mapping.w_avg, 0.19 * w)


def test_global_truncation_pulls_towards_the_running_mean() -> None:
    mapping, c, z = _mapping(truncation="global"), _labels(), torch.randn(3, 8)
    mapping.w_avg.copy_(torch.arange(12.0))
    torch.testing.assert_close(mapping(z, c, truncation_psi=0), mapping.w_avg.expand(3, 5, 12))


def test_without_a_label_the_centre_is_the_mean_over_z() -> None:
    torch.manual_seed(0)
    mapping = MappingNetwork(8, 0, 12, 5, num_layers=1, truncation_samples=64).eval()
    found = mapping(torch.randn(2, 8), None, truncation_psi=0)
    expected = mapping.to_w(mapping.centre.z(), None).mean(dim=0)
    torch.testing.assert_close(found, expected.expand(2, 5, 12))


def test_normalization() -> None:
    x = normalize_2nd_moment(torch.randn(4, 9) * 7)
    torch.testing.assert_close(x.square().mean(dim=1), torch.ones(4))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"c must have shape \[N, 11\]"):
        _mapping()(torch.randn(2, 8), torch.randn(2, 10))
    with pytest.raises(ValueError, match=r"z must have shape \[N, 8\]"):
        _mapping()(None, _labels())
    with pytest.raises(ValueError, match="truncation must be one of"):
        _mapping(truncation="none")
    with pytest.raises(ValueError, match="num_layers"):
        _mapping(num_layers=0)
