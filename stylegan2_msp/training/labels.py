"""Which reals a batch shows, which labels it asks for, and what D is told: label noise and vicinal sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stylegan2_msp.data.dataset import SampleOrder, on_device
from torch_utils_ext.rng import BatchRng

_CLASS_STRIDE = 4.0  # keys of the vicinity: 4 k + u, and asked levels are kept in [-1, 2]


class LabelDraws:
    """Draws the labels of reals and fakes; by default D is told each sample's own label.

    With ``label_noise`` sigma, D is told u + sigma N(0, 1) of every sample, real or fake, while G gets u itself
    (Chan et al. 2022, EG3D, who do so with the camera). With ``vicinal`` kappa > 0 (Ding et al. 2021, CcGAN, hard
    vicinal discriminator loss) the noisy level t comes first: the real is a random one of the same class with
    |u_i - t| <= kappa (the nearest if there is none), the fake is made at a u uniform in [t - kappa, t + kappa], and
    D is told t. Fakes of G's own step are drawn in the same way; CcGAN makes those at t.

    Args:
        labels: all labels, float32 [N, K + 1] or [N, 2 K] (any shape while both options are off).
        num_classes: K.
        order: which samples come next.
        rng: numbers of the batch.
        label_noise: sigma in units of u; 'auto' is Silverman's 1.06 std(u) N^(-1/5), as CcGAN has it.
        vicinal: kappa in units of u; 0 is off.
    """

    def __init__(
        self,
        labels: torch.Tensor,
        num_classes: int,
        order: SampleOrder,
        rng: BatchRng,
        label_noise: float | str = 0.0,
        vicinal: float = 0.0,
    ) -> None:
        self.labels, self.num_classes, self.order, self.rng = labels, num_classes, order, rng
        sigma = silverman(labels[:, num_classes:]) if isinstance(label_noise, str) else label_noise
        self.noise = LevelNoise(num_classes, rng, sigma, vicinal)
        self.vicinity = Vicinity(labels[:, :num_classes].argmax(dim=1), labels[:, num_classes]) if vicinal > 0 else None

    def reals(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of n reals, int64 [n], and the labels that D is told, [n, c_dim]."""
        index = self.order.reals(n, self.rng)
        told = self.noise.told(self.of(index))
        if self.vicinity is not None:
            classes = told[:, : self.num_classes].argmax(dim=1)
            index = self.vicinity.pick(classes, told[:, -1], self.noise.kappa, self.rng.rand(n))
        return index, told

    def of(self, index: torch.Tensor) -> torch.Tensor:
        """Labels of the samples at these positions, [n, c_dim]."""
        return self.labels[on_device(index, self.labels.device)]

    def fakes(self, n: int, twins: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels of n fakes, [n, c_dim]: what G is given, and what D is told; see `twin_labels` for ``twins``."""
        c = self.labels[self.order.labels_of_fakes(n, self.rng)]
        given, told = self.noise.fakes(c)
        return (twin_labels(given), twin_labels(told)) if twins else (given, told)


def twin_labels(c: torch.Tensor) -> torch.Tensor:
    """Labels [n, c_dim] of which the last n // 2 are those of the first ones."""
    pairs = len(c) // 2
    return torch.cat([c[: len(c) - pairs], c[:pairs]])


@dataclass(frozen=True)
class LevelNoise:
    """What D is told in place of labels c [n, c_dim], and where fakes are made; see `LabelDraws`.

    Attributes:
        num_classes: K.
        rng: numbers of the batch.
        sigma: standard deviation of the noise, one or one for each number of uncertainty; 0 is none.
        kappa: half-width of the vicinity; 0 is none.
    """

    num_classes: int
    rng: BatchRng
    sigma: float | torch.Tensor = 0.0
    kappa: float = 0.0

    def told(self, c: torch.Tensor) -> torch.Tensor:
        """c with noisy levels."""
        if not torch.is_tensor(self.sigma) and self.sigma == 0:
            return c
        c = c.clone()
        u = c[:, self.num_classes :]
        u += self.sigma * self.rng.randn(*u.shape)
        return c

    def fakes(self, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What G is given and what D is told where the labels c were drawn."""
        told = self.told(c)
        if self.kappa == 0:
            return c, told
        given = told.clone()
        given[:, -1] = (given[:, -1] + self.kappa * (2 * self.rng.rand(len(c)) - 1)).clamp(0, 1)
        return given, told


def silverman(u: torch.Tensor) -> torch.Tensor:
    """1.06 std(u) N^(-1/5) of each column of u [N, m], float32 [m] (Silverman's rule, as CcGAN has it)."""
    return 1.06 * u.std(dim=0) * len(u) ** -0.2


class Vicinity:
    """Samples sorted by class and u, to find those near an asked level without looking at all of them.

    Args:
        classes: int64 [N].
        u: float32 [N] in [0, 1].
    """

    def __init__(self, classes: torch.Tensor, u: torch.Tensor) -> None:
        self.keys, self.rows = (classes * _CLASS_STRIDE + u.double()).sort()
        bounds = torch.arange(int(classes.max()) + 2, device=u.device).double() * _CLASS_STRIDE - 1.5
        self.first = torch.searchsorted(self.keys, bounds)  # of class k; the next one's is the end

    def pick(self, classes: torch.Tensor, asked: torch.Tensor, kappa: float, place: torch.Tensor) -> torch.Tensor:
        """One sample for each asked level: uniform among those of its class within kappa, or else the nearest.

        Args:
            classes: int64 [n], classes that have samples.
            asked: t, float32 [n].
            kappa: half-width of the vicinity.
            place: uniform numbers in [0, 1) that choose, float32 [n].

        Returns:
            Indices, int64 [n].
        """
        first, end = self.first[classes], self.first[classes + 1]
        centre = classes * _CLASS_STRIDE + asked.double().clamp(-1, 2)
        low = torch.searchsorted(self.keys, centre - kappa).clamp(first, end)
        high = torch.searchsorted(self.keys, centre + kappa, right=True).clamp(first, end)
        inside = low + (place.double() * (high - low)).long()
        after = torch.searchsorted(self.keys, centre).clamp(first, end)
        before, after = (after - 1).clamp(first, end - 1), after.clamp(first, end - 1)
        nearer = (self.keys[before] - centre).abs() <= (self.keys[after] - centre).abs()
        return self.rows[torch.where(high > low, inside, torch.where(nearer, before, after))]
