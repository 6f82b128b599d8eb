"""The objective: one straight-line method for each of G, path length, D and R1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import softplus

from stylegan2_msp.augment import AugmentPipe
from stylegan2_msp.networks import Discriminator, Generator, PointDiscriminator, PointGenerator
from stylegan2_msp.training.consistency import Consistency
from stylegan2_msp.training.diversity import Diversity
from stylegan2_msp.training.witness import Witness
from torch_utils_ext.rng import BatchRng


@dataclass
class Objective:
    """Losses of StyleGAN2-ADA with the condition c = [class one-hot, uncertainty].

    Each method takes this process's share of the batch and returns scalars that are means over it; the mean over
    processes is the loss of the whole batch. ``told`` is the label that D is told of a sample, which differs from the
    sample's own c only under label noise or vicinal sampling (`training.labels.LabelDraws`).

    Attributes:
        G, D: the networks.
        augment: the ADA pipe, or None.
        rng: numbers of the batch, shared by all processes.
        consistency: asks the frozen classifier about fakes, or None.
        witness: a second network that looks at them then, or None.
        style_mixing: probability of mixing two latents (Karras et al. 2019, section 3.1).
        settled: so many first numbers of a latent settle what a fake is to be; both latents of a mixture share them.
        pl_decay: decay of the running mean of path lengths.
        mean: takes the mean of a tensor over all processes.
    """

    G: Generator | PointGenerator
    D: Discriminator | PointDiscriminator
    augment: AugmentPipe | None
    rng: BatchRng
    consistency: Consistency | None = None
    diversity: Diversity | None = None
    witness: Witness | None = None
    style_mixing: float = 0.0
    settled: int = 0
    pl_decay: float = 0.01
    mean: Callable[[torch.Tensor], torch.Tensor] = lambda value: value

    def generate(self, z: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples and their ws; with probability ``style_mixing`` the later layers follow a second latent."""
        ws = self.G.mapping(z, c)
        if self.style_mixing > 0:
            # One draw for the whole batch, the same on every process. Nothing waits for it: layers that no mixture
            # begins at, or all of them, take the first latent.
            mix, cut = self.rng.shared(2).unbind()
            first = torch.where(mix < self.style_mixing, 1 + (cut * (ws.shape[1] - 1)).floor(), ws.shape[1])
            second = torch.cat([z[:, : self.settled], self.rng.randn(*z.shape)[:, self.settled :]], dim=1)
            other = self.G.mapping(second, c, skip_w_avg_update=True)
            layers = torch.arange(ws.shape[1], device=ws.device)
            ws = torch.where((layers < first)[:, None], ws, other)
        return self.G.synthesis(ws, rng=self.rng), ws

    def discriminate(self, img: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """D's logits [N, 1] of augmented samples; c speaks of the sample before augmentation."""
        if self.augment is not None:
            img = self.augment(img, rng=self.rng)
        return self.D(img, c)

    def generator(
        self, z: torch.Tensor, c: torch.Tensor, told: torch.Tensor, strength: torch.Tensor | float | None = None
    ) -> dict[str, torch.Tensor]:
        """Non-saturating loss softplus(-D(G(z, c), told)) (Goodfellow et al. 2014), plus what is charged
        for a lack of `Diversity`, plus ``strength`` times what the frozen classifier and the witness charge (see
        `Consistency` and `Witness`); None does not ask them."""
        img, _ = self.generate(z, c)
        losses = {"G": softplus(-self.discriminate(img, told)).mean()}
        if self.diversity is not None:
            losses["diversity"] = self.diversity.weight * self.diversity.charge(img, c, self.mean)
        asks = self.consistency
        if asks is None or strength is None:
            return losses
        distance, strayed = asks.charge(img, c, z)
        losses["consistency"] = strength * asks.weight * distance
        if self.witness is not None:
            charge = self.witness.charge(img, c, z, asks.named_right(c, z))
            losses["witness"] = strength * self.witness.weight * charge
        if asks.uniform > 0:
            c = asks.uniform_labels(len(c))
            z = self.rng.randn(len(c), z.shape[1])
            ws = self.G.mapping(z, c, skip_w_avg_update=True)
            distance, more = asks.charge(self.G.synthesis(ws, rng=self.rng), c, z)
            losses["consistency_uniform"] = strength * asks.uniform * distance
            strayed = (strayed + more) / 2
        if asks.agreement is not None:
            losses["class"] = strength * asks.class_weight * strayed
        return losses

    def path_length(self, z: torch.Tensor, c: torch.Tensor, pl_mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Path length regulariser (Karras et al. 2020a, equation 4) and the new running mean of lengths.

        Args:
            pl_mean: the running mean of path lengths before this batch, a scalar.
        """
        img, ws = self.generate(z, c)
        noise = self.rng.randn(*img.shape) / (img.shape[2] * img.shape[3]) ** 0.5
        (slope,) = torch.autograd.grad((img * noise).sum(), ws, create_graph=True)
        lengths = slope.square().sum(dim=2).mean(dim=1).sqrt()
        pl_mean = pl_mean.lerp(self.mean(lengths.detach().mean()), self.pl_decay)
        return (lengths - pl_mean).square().mean(), pl_mean

    def discriminator(
        self, real: torch.Tensor, real_told: torch.Tensor, z: torch.Tensor, c: torch.Tensor, told: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Logistic loss softplus(D(G(z, c), told)) + softplus(-D(x, told)); ``signs`` is E[sign D(x, told)] for ADA."""
        with torch.no_grad():
            fake, _ = self.generate(z, c)
        if self.augment is not None:
            fake, real = self.augment(fake, rng=self.rng), self.augment(real, rng=self.rng)
        # One pass of D for both. In turns, so that its minibatch deviation takes the same groups as in two passes.
        logits = self.D(_in_turns(fake, real), _in_turns(told, real_told))
        fake_logits, real_logits = logits[::2], logits[1::2]
        return {
            "D_fake": softplus(fake_logits).mean(),
            "D_real": softplus(-real_logits).mean(),
            "signs": real_logits.detach().sign().mean(),
        }

    def r1(self, real: torch.Tensor, told: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """R1 penalty E||grad_x D(x, told)||^2 (Mescheder et al. 2018, equation 9) and E[sign D(x, told)]."""
        real = real.detach().requires_grad_(True)
        logits = self.discriminate(real, told)
        (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        return slope.square().flatten(1).sum(dim=1).mean(), logits.detach().sign().mean()


def _in_turns(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Rows of both, [2 N, ...]: first, second, first, second, ..."""
    return torch.stack([first, second], dim=1).flatten(0, 1)
