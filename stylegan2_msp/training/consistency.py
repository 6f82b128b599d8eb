"""What the frozen classifier adds to G's loss: its answer's distance from the level asked for, and a strayed class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stylegan2_msp.agreement import ClassAgreement, real_agreement
from stylegan2_msp.augment import AugmentPipe
from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.conditioning import level
from stylegan2_msp.seeds import Settled
from torch_utils_ext.rng import BatchRng

# Shifts by whole pixels up to 1/32 of the image, and faint noise. On reals of corrupted MNIST, all levels alike, they
# move the MSP by 0.03 on average at probability 0.25 and by 0.06 at 0.5; ADA's bgc does so by 0.20 at 0.3.
MILD: dict[str, Any] = {"xint": 1.0, "xint_max": 1 / 32, "noise": 1.0, "noise_std": 0.05}
_LEAST = 1e-15  # probabilities are kept so far from 0 and 1: logits then have a slope up to a distance of 34
_TAILS = 0.002  # share of the labels at either end that the range of uniform levels leaves out


@dataclass
class Consistency:
    """Terms of G's loss that ask the frozen classifier f (compare Singla et al. 2020, Progressive Exaggeration).

    v is what f says of G(z, c), u what c asks for, y the class that c asks for.

    Attributes:
        classifier: f.
        rng: numbers of the batch.
        weight: of E[|v - u| + KL(u || v)] over the fakes that D judges; KL only where u is a probability, |v - u| times
            the measure's steepness.
        uniform: of the same over a second batch that D never sees, its levels uniform over the data's range.
        share: size of that second batch relative to the first.
        class_weight: of E[max_k p_k - p_w] over both batches, where w is what f is to answer: y, or else the likeliest
            other class. Reals of class y and level u are named y with probability a_y(u), and so are fakes to be: z
            settles which of them (`seeds.Settled`). Bare cross-entropy to y would make fakes more obedient than reals.
        agreement: a; needed with ``class_weight``.
        pipe: mild augmentation under which f looks at fakes, or None. An answer that holds under small shifts and
            faint noise is not owed to a pattern of single pixels (randomised smoothing, Cohen et al. 2019). D's own
            pipe would not do: f answers strongly augmented reals otherwise than the reals, of which u is said.
        labels: all labels; with ``uniform`` they say which classes and levels there are.
    """

    classifier: FrozenClassifier
    rng: BatchRng
    weight: float = 1.0
    uniform: float = 0.0
    share: float = 0.5
    class_weight: float = 0.0
    agreement: ClassAgreement | None = None
    pipe: AugmentPipe | None = None
    labels: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.lowest = self.highest = 1.0
        if self.labels is not None and self.uniform > 0:
            levels = level(self.labels, self.classifier.num_classes).sort().values
            skipped = int(_TAILS * len(levels))
            self.lowest, self.highest = float(levels[skipped]), float(levels[-1 - skipped])

    def uniform_labels(self, n: int) -> torch.Tensor:
        """Labels of the second batch for a first one of n: classes as in the data, levels uniform, [share n, c_dim]."""
        assert self.labels is not None
        K = self.classifier.num_classes
        count = max(1, round(self.share * n))
        one_hot = self.labels[self.rng.randint(len(self.labels), count), :K]
        levels = self.lowest + (self.highest - self.lowest) * self.rng.rand(count)
        return torch.cat([one_hot, self.classifier.measure.rows(one_hot.argmax(dim=1), levels)], dim=1)

    def charge(self, img: torch.Tensor, c: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean distance of v from u (`_distance`) and E[max_k p_k - p_w] of fakes made of z for labels c."""
        f, K = self.classifier, self.classifier.num_classes
        classes, asked = c[:, :K].argmax(dim=1), c[:, K:]
        logits, v = self._answer(img, classes)
        distance = _distance(v.reshape(asked.shape), asked.double(), f.measure.probability).mean().float()
        distance = f.measure.steepness * distance
        named_right = self.named_right(c, z)
        if named_right is None:
            return distance, distance.new_zeros(())
        p = logits.softmax(dim=1)
        own = p.gather(1, classes[:, None])[:, 0]
        other = p.scatter(1, classes[:, None], 0.0).amax(dim=1)
        return distance, torch.where(named_right, other - own, own - other).clamp_min(0).mean().float()

    def named_right(self, c: torch.Tensor, z: torch.Tensor) -> torch.Tensor | None:
        """Whether f is to name fakes as the class that c asks for, bool [n]; None where nothing settles that."""
        if self.agreement is None:
            return None
        K = self.classifier.num_classes
        return Settled(z).naming < self.agreement(level(c, K), c[:, :K].argmax(dim=1))

    def _answer(self, img: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and measure of what an image file would hold of the fakes."""
        f = self.classifier
        if img.ndim == 4:
            img = img.clamp(-1, 1)
        if self.pipe is not None:
            img = self.pipe(img, rng=self.rng)
        logits = f(img).double()  # 1 - p of an answer that is all but certain would round to 0
        v = f.measure(f.measured_logits(img).double() if f.measure.draws else logits, classes)
        return logits, v.clamp(0, 1)


def _distance(v: torch.Tensor, asked: torch.Tensor, divergence: bool) -> torch.Tensor:
    """|v - u| of each row [n, 1], of softmax vectors [n, K] half the L1 distance; with ``divergence`` plus KL(u || v).

    Where f is all but certain |v - u| has no slope in its logits, but the divergence has: v - u (for one number), up to
    a distance of 34 between logits, where float64 ends.
    """
    distance = (v - asked).abs().sum(dim=1) / (1 if asked.shape[1] == 1 else 2)
    if not divergence:
        return distance
    v, u = v.clamp(_LEAST, 1 - _LEAST), asked.clamp(_LEAST, 1 - _LEAST)
    if asked.shape[1] == 1:
        v, u = torch.cat([v, 1 - v], dim=1), torch.cat([u, 1 - u], dim=1)
    return distance + (u * (u / v).log()).sum(dim=1)


def ask(
    classifier: FrozenClassifier,
    labels: torch.Tensor,
    named_right: torch.Tensor | None,
    rng: BatchRng,
    weight: float,
    uniform: float,
    share: float,
    class_weight: float,
    augment: float,
) -> Consistency:
    """The terms that ask ``classifier`` about fakes made for labels of the data.

    Args:
        labels: all labels, [N, K + 1] or [N, 2 K].
        named_right: whether the classifier names each sample as its class, bool [N]; needed with ``class_weight``.
        augment: probability of each of the mild augmentations; 0 is none.
        weight, uniform, share, class_weight: as of `Consistency`.
    """
    pipe = None
    if augment > 0:
        pipe = AugmentPipe(**MILD).requires_grad_(False).to(labels.device)
        pipe.p.fill_(augment)
    agreement = None
    if class_weight > 0 and named_right is not None:
        agreement = real_agreement(labels, named_right, classifier.num_classes)
    return Consistency(classifier, rng, weight, uniform, share, class_weight, agreement, pipe, labels)
