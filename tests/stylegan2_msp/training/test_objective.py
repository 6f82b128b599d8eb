"""The losses against formulas written out by hand, and against networks whose answer is known."""

import math

import pytest
import torch
from torch import nn

from stylegan2_msp.training.consistency import Consistency
from stylegan2_msp.training.losses import Objective
from stylegan2_msp.uncertainty import Msp
from torch_utils_ext.rng import BatchRng

Z = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.7, 0.1]])
C = torch.tensor([[1.0, 0.0, 0.9], [0.0, 1.0, 0.6], [1.0, 0.0, 0.7]])


class LinearG(nn.Module):
    """ws = z for each of two layers; image = sum of layers spread over 2x2 pixels with known weights."""

    z_dim = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.5, 0.0, 3.0, 1.0]]))
        self.one = nn.Parameter(torch.tensor(1.0))

    def mapping(self, z, c, skip_w_avg_update=False):
        return (self.one * z)[:, None].repeat(1, 2, 1)

    def synthesis(self, ws, rng=None):
        return (ws.sum(1) @ self.weight).view(-1, 1, 2, 2)


class LinearD(nn.Module):
    """D(x, c) = <a, x> + u."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.1, -0.2, 0.3, 0.05]))

    def forward(self, img, c):
        return (img.flatten(1) @ self.a)[:, None] + c[:, -1:]


class KnownClassifier(nn.Module):
    """Logits (x0, -x0) and the MSP."""

    num_classes = 2
    measure = Msp()

    def forward(self, img):
        x = img.flatten(1)[:, 0]
        return torch.stack([x, -x], dim=1)


@pytest.fixture
def objective():
    rng = BatchRng(0)
    return Objective(LinearG(), LinearD(), None, rng, Consistency(KnownClassifier(), rng))


def softplus(x):
    return math.log1p(math.exp(x))


def images(objective):
    return (2 * Z) @ objective.G.weight.detach()


def test_generator_loss_is_the_mean_of_softplus_of_minus_logits(objective):
    logits = [float(x @ objective.D.a.detach() + c[-1]) for x, c in zip(images(objective), C, strict=True)]
    wanted = sum(softplus(-v) for v in logits) / 3
    assert objective.generator(Z, C, C)["G"].item() == pytest.approx(wanted, rel=1e-6)


def test_consistency_is_the_weighted_mean_distance_between_asked_and_answered(objective):
    objective.consistency.weight = 5.0
    answered = [1 / (1 + math.exp(-2 * abs(max(-1, min(1, float(x[0])))))) for x in images(objective)]
    wanted = 0.0
    for v, u in zip(answered, C[:, -1].tolist(), strict=True):
        divergence = u * math.log(u / v) + (1 - u) * math.log((1 - u) / (1 - v))
        wanted += 2.5 * (abs(v - u) + divergence) / 3
    assert float(objective.generator(Z, C, C, strength=0.5)["consistency"]) == pytest.approx(wanted, rel=1e-5)
    assert set(objective.generator(Z, C, C)) == {"G"}


def test_discriminator_loss(objective):
    real = torch.linspace(-1, 1, 12).view(3, 1, 2, 2)
    a = objective.D.a.detach()
    fake_logits = [float(x @ a + c[-1]) for x, c in zip(images(objective), C, strict=True)]
    real_logits = [float(x.flatten() @ a + c[-1]) for x, c in zip(real, C, strict=True)]
    losses = objective.discriminator(real, C, Z, C, C)
    assert float(losses["D_fake"]) == pytest.approx(sum(map(softplus, fake_logits)) / 3, rel=1e-6)
    assert float(losses["D_real"]) == pytest.approx(sum(softplus(-v) for v in real_logits) / 3, rel=1e-6)
    assert float(losses["signs"]) == pytest.approx(sum(math.copysign(1, v) for v in real_logits) / 3)
    assert not losses["D_fake"].requires_grad or torch.autograd.grad(
        losses["D_fake"], objective.G.weight, allow_unused=True, retain_graph=True
    ) == (None,)


def test_r1_of_a_linear_discriminator_is_the_squared_norm_of_its_weights(objective):
    penalty, signs = objective.r1(torch.rand(3, 1, 2, 2), C)
    a = objective.D.a.detach()
    assert float(penalty) == pytest.approx(float(a @ a), rel=1e-6)
    assert float(signs) == 1.0
    penalty.backward()
    torch.testing.assert_close(objective.D.a.grad, 2 * a)


def test_path_length_of_a_linear_generator(objective):
    """The slope for every layer is W y / sqrt(HW); the length is the root of the mean over layers of its square."""
    noise = BatchRng(0).randn(3, 1, 2, 2) / 2
    lengths = torch.stack([(objective.G.weight.detach() @ y.flatten()).norm() for y in noise])
    pl_mean = torch.tensor(0.4).lerp(lengths.mean(), 0.01)
    penalty, new_mean = objective.path_length(Z, C, torch.tensor(0.4))
    assert float(new_mean) == pytest.approx(float(pl_mean), rel=1e-6)
    assert float(penalty) == pytest.approx(float((lengths - pl_mean).square().mean()), rel=1e-5)
    penalty.backward()
    assert objective.G.weight.grad.abs().sum() > 0


def test_style_mixing_swaps_the_tail_of_ws_for_a_second_latent(objective):
    objective.style_mixing = 1.0
    _, ws = objective.generate(Z, C)
    torch.testing.assert_close(ws[:, 0], Z)
    assert (ws[:, 1] - Z).abs().min() > 0
