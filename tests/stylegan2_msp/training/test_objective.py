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


class LayeredG(nn.Module):
    """ws = z for each of L layers; the image [2, 2, 3] is the sum of layers, each times weights of its own."""

    def __init__(self, layers):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(layers, 2, 12, generator=torch.Generator().manual_seed(0)))
        self.one = nn.Parameter(torch.tensor(1.0))
        self.skipped = []

    def mapping(self, z, c, skip_w_avg_update=False):
        self.skipped.append(skip_w_avg_update)
        return (self.one * z)[:, None].repeat(1, len(self.weight), 1)

    def synthesis(self, ws, rng=None):
        return torch.einsum("nlw,lwp->np", ws, self.weight).view(-1, 2, 2, 3)


def test_path_length_sums_over_w_and_is_averaged_over_layers():
    """|J_w^T y| of Karras et al. 2020a, equation 4, for every one of three layers, with y of variance 1 / (2 x 3)."""
    G = LayeredG(3)
    noise = BatchRng(7).randn(3, 2, 2, 3).flatten(1) / 6**0.5
    squares = [[float((weight @ y).square().sum()) for weight in G.weight.detach()] for y in noise]
    lengths = [math.sqrt(sum(row) / 3) for row in squares]
    pl_mean = 0.99 * 2.0 + 0.01 * sum(lengths) / 3
    objective = Objective(G, LinearD(), None, BatchRng(7))
    penalty, found = objective.path_length(Z, C, torch.tensor(2.0))
    assert float(found) == pytest.approx(pl_mean, rel=1e-6)
    assert float(penalty.detach()) == pytest.approx(sum((a - pl_mean) ** 2 for a in lengths) / 3, rel=1e-5)
    penalty.backward()
    expected = torch.zeros_like(G.weight)  # d (a - mean)^2 / dW_l = 2 (a - mean) (W_l y) y^T / (3 a), mean over images
    for y, a in zip(noise, lengths, strict=True):
        for layer, weight in enumerate(G.weight.detach()):
            expected[layer] += 2 * (a - pl_mean) * torch.outer(weight @ y, y) / (3 * a) / 3
    torch.testing.assert_close(G.weight.grad, expected, rtol=1e-4, atol=1e-6)


def test_path_lengths_are_averaged_over_all_processes():
    objective = Objective(LayeredG(2), LinearD(), None, BatchRng(7), mean=lambda value: value + 100)
    alone = Objective(LayeredG(2), LinearD(), None, BatchRng(7))
    found, own = (o.path_length(Z, C, torch.tensor(2.0))[1] for o in (objective, alone))
    assert float(found) == pytest.approx(float(own) + 1, rel=1e-5)


def test_style_mixing_swaps_the_tail_of_ws_for_a_second_latent(objective):
    objective.style_mixing = 1.0
    _, ws = objective.generate(Z, C)
    torch.testing.assert_close(ws[:, 0], Z)
    assert (ws[:, 1] - Z).abs().min() > 0


def test_a_mixture_begins_at_any_layer_but_the_first_alike_often():
    """Karras et al. 2019, section 3.1: with the probability asked for; the whole batch at the same layer."""
    objective = Objective(LayeredG(5), LinearD(), None, BatchRng(0), style_mixing=0.6)
    begins = torch.zeros(6)
    for _ in range(1000):
        _, ws = objective.generate(Z, C)
        other = (ws != Z[:, None]).all(dim=2)
        assert (other == other[0]).all()
        begins[int((~other[0]).sum())] += 1
        assert other[0].sum() == 5 - (~other[0]).sum()
        assert not other[0].int().diff().lt(0).any()  # a tail
    torch.testing.assert_close(begins / 1000, torch.tensor([0, 0.15, 0.15, 0.15, 0.15, 0.4]), atol=0.05, rtol=0)


def test_a_mixture_keeps_what_the_first_numbers_settle_and_leaves_w_avg_to_the_first_latent():
    objective = Objective(LayeredG(2), LinearD(), None, BatchRng(0), style_mixing=1.0, settled=1)
    _, ws = objective.generate(Z, C)
    assert torch.equal(ws[:, 1, 0], Z[:, 0])
    assert (ws[:, 1, 1] - Z[:, 1]).abs().min() > 0
    assert objective.G.skipped == [False, True]


def test_the_classifier_is_asked_about_the_label_that_g_was_given_and_d_about_what_it_is_told(objective):
    told = C.clone()
    told[:, -1] = torch.tensor([0.5, 0.8, 0.95])
    found, plain = objective.generator(Z, C, told, strength=1.0), objective.generator(Z, C, C, strength=1.0)
    assert float(found["consistency"]) == float(plain["consistency"])
    logits = [float(x @ objective.D.a.detach() + c[-1]) for x, c in zip(images(objective), told, strict=True)]
    assert found["G"].item() == pytest.approx(sum(softplus(-v) for v in logits) / 3, rel=1e-6)


def test_d_is_told_other_labels_of_fakes_and_of_reals(objective):
    real = torch.linspace(-1, 1, 12).view(3, 1, 2, 2)
    of_reals, of_fakes = C.clone(), C.clone()
    of_reals[:, -1] += 0.3
    of_fakes[:, -1] -= 0.2
    losses = objective.discriminator(real, of_reals, Z, C, of_fakes)
    a = objective.D.a.detach()
    fake_logits = [float(x @ a + c[-1]) for x, c in zip(images(objective), of_fakes, strict=True)]
    real_logits = [float(x.flatten() @ a + c[-1]) for x, c in zip(real, of_reals, strict=True)]
    assert float(losses["D_fake"]) == pytest.approx(sum(map(softplus, fake_logits)) / 3, rel=1e-6)
    assert float(losses["D_real"]) == pytest.approx(sum(softplus(-v) for v in real_logits) / 3, rel=1e-6)


class Halving(nn.Module):
    """In the place of the ADA pipe: halves images and counts."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, img, rng=None):
        self.calls += 1
        return img / 2


def test_every_image_that_d_sees_is_augmented(objective):
    """Reals and fakes alike, or D would tell them by it; the R1 slope is with respect to the image before that."""
    objective.augment = Halving()
    a, real = objective.D.a.detach(), torch.linspace(-1, 1, 12).view(3, 1, 2, 2)
    fake_logits = [float(x / 2 @ a + c[-1]) for x, c in zip(images(objective), C, strict=True)]
    real_logits = [float(x.flatten() / 2 @ a + c[-1]) for x, c in zip(real, C, strict=True)]
    losses = objective.discriminator(real, C, Z, C, C)
    assert float(losses["D_fake"]) == pytest.approx(sum(map(softplus, fake_logits)) / 3, rel=1e-6)
    assert float(losses["D_real"]) == pytest.approx(sum(softplus(-v) for v in real_logits) / 3, rel=1e-6)
    wanted = sum(softplus(-v) for v in fake_logits) / 3
    assert objective.generator(Z, C, C)["G"].item() == pytest.approx(wanted, rel=1e-6)
    assert float(objective.r1(real, C)[0]) == pytest.approx(float(a @ a) / 4, rel=1e-6)
