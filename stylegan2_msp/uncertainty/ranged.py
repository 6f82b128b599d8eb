"""Measures without a natural range, which the annotated data give: energy, mutual information."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from stylegan2_msp.errors import UserError
from stylegan2_msp.uncertainty.measure import Measure, entropy

_FLAT = 1e-5  # a range that is rounding error
_OUTLIERS = 0.001  # share of the data at either end that a recorded range leaves out


@dataclass(frozen=True)
class Ranged(Measure):
    """A quantity without a natural range: u = (quantity - lowest) / (highest - lowest), clipped to [0, 1].

    Attributes:
        lowest, highest: what counts as 0 and 1; recorded at annotation.
    """

    lowest: float = 0.0
    highest: float = 1.0

    certain = "low"
    from_probs = False

    def quantity(self, logits: torch.Tensor) -> torch.Tensor:
        """What is measured, in its own unit, [N]."""
        raise NotImplementedError

    def __call__(self, logits: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """(quantity - lowest) / (highest - lowest) in [0, 1]."""
        return ((self.quantity(logits) - self.lowest) / (self.highest - self.lowest)).clamp(0, 1)

    def fitted(self, logits: torch.Tensor, classes: torch.Tensor) -> Measure:
        """Range from the 0.1 % to the 99.9 % quantile of the data."""
        found = torch.sort(self.quantity(logits).double()).values
        skipped = int(_OUTLIERS * len(found))
        lowest, highest = float(found[skipped]), float(found[-1 - skipped])
        if not highest - lowest > _FLAT:
            raise UserError(f"--uncertainty {self.name}: is {highest:.6g} for all of the data; choose another measure")
        return replace(self, lowest=lowest, highest=highest)


@dataclass(frozen=True)
class Energy(Ranged):
    """Free energy E = -T log sum_k exp(logit_k / T), T = 1, low when sure (Liu et al. 2020, equation 4).

    It has no bounds: u = 0 and 1 are the 0.1 % and 99.9 % quantiles of the annotated data.
    """

    name = "energy"
    title = "energy"

    @property
    def steepness(self) -> float:
        """sqrt((highest - lowest) / 4), but no less than 1.

        E follows its logits one to one, u a range of them that may be wide, and a probability with a slope of 1/4 where
        it is steepest. A quarter of the range would give |v - u| that slope, and ask for a level to the logit, at the
        cost of all else; 1 asks for as much of the range as of MSP, and is not felt. This is their geometric mean.
        """
        return max(1.0, math.sqrt((self.highest - self.lowest) / 4))

    def quantity(self, logits: torch.Tensor) -> torch.Tensor:
        """-log sum_k exp(logit_k), [N]."""
        return -logits.logsumexp(dim=1)


@dataclass(frozen=True)
class MutualInformation(Ranged):
    """I = H[mean_t p_t] - mean_t H[p_t] over T = 20 dropout masks, low when sure.

    Houlsby et al. 2011, equation 2; masks by dropout as in Gal and Ghahramani 2016. I lies in [0, log K] and is mostly
    far below: u = 0 and 1 are the 0.1 % and 99.9 % quantiles of the annotated data.
    """

    name = "mutual_information"
    title = "mutual information"
    draws = 20

    def quantity(self, logits: torch.Tensor) -> torch.Tensor:
        """H[mean_t p_t] - mean_t H[p_t] in nats of logits [T, N, K], [N]."""
        log_p = logits.log_softmax(dim=2)
        log_mean = log_p.logsumexp(dim=0) - math.log(len(log_p))
        return -(log_mean.exp() * log_mean).sum(dim=1) - entropy(logits).mean(dim=0)
