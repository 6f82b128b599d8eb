"""The checkout's loss with what the frozen classifier adds to it; imported inside a checkout only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch_utils import training_stats  # type: ignore[import-not-found]
from training.loss import StyleGAN2Loss  # type: ignore[import-not-found]

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.seeds import SETTLED, Settled
from stylegan2_msp.training.consistency import Consistency, ask
from stylegan2_msp.training.diversity import Diversity, real_diversity
from stylegan2_msp.training.labels import LevelNoise, twin_labels
from stylegan2_msp.training.sharpness import SharpnessRanks, rank_reals
from stylegan2_msp.training.step import consistency_strength
from stylegan2_msp.training.witness import Witness, make_witness, recall_witness
from torch_utils_ext.rng import BatchRng


class MspLoss(StyleGAN2Loss):
    """G's loss gets the terms of `Consistency`, `Witness` and `Diversity`; D may be told a noisy level, and sharpness.

    The terms enter the backward pass that the checkout's own loss starts (`_Charged`), so that its phases, gains and
    synchronisation of processes stay as they are.

    Args:
        archive: the annotated archive; its classifier is f.
        num_classes: K.
        consistency, consistency_uniform, consistency_share, consistency_class, consistency_augment,
        consistency_witness: as of `train`.
        consistency_kimg, consistency_ramp: when the terms begin, in thousands of images since this process started.
        label_noise: standard deviation of the noise on the level that D is told.
        vicinal: half-width of the vicinity; the data set then tells noisy levels of reals by itself.
        sharpness: whether D is told the sharpness too, as a number more in its label.
        diversity: weight of the charge for a lack of it (`training.diversity`).
        seed: of all that these terms draw.
        kwargs: of the checkout's loss.
    """

    def __init__(
        self,
        device: torch.device,
        archive: str,
        num_classes: int,
        consistency: float = 0.0,
        consistency_kimg: float = 20.0,
        consistency_ramp: float = 0.0,
        consistency_uniform: float = 0.0,
        consistency_share: float = 0.5,
        consistency_class: float = 0.0,
        consistency_augment: float = 0.0,
        consistency_witness: float = 0.0,
        label_noise: float = 0.0,
        vicinal: float = 0.0,
        sharpness: bool = False,
        diversity: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(device=device, **kwargs)
        joined = dist.is_available() and dist.is_initialized()
        rank, self.processes = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        self.rng = BatchRng(seed, device, rank, self.processes)
        self.num_classes = num_classes
        self.noise = LevelNoise(num_classes, self.rng, label_noise, vicinal)
        self.start_kimg, self.ramp_kimg = consistency_kimg, consistency_ramp
        self.nimg = 0
        self.charged: _Charge | None = None  # while G learns
        self.fakes: _Fakes | None = None  # of a phase
        self.ranks: SharpnessRanks | None = None
        self.diversity: Diversity | None = None
        self.witness: Witness | None = None
        if sharpness or diversity or consistency_witness:
            data = TrainingSet(open_archive(archive), "class+msp", device)
            if sharpness:
                self.ranks = rank_reals(data, num_classes)
            if diversity:
                self.diversity = real_diversity(data, num_classes, diversity)
            kept = make_witness(data, num_classes) if consistency_witness else None
            self.witness = None if kept is None else recall_witness(kept, data, consistency_witness)
        self.asks: Consistency | None = None
        if consistency or consistency_uniform or consistency_class or consistency_witness:
            weights = (consistency, consistency_uniform, consistency_share, consistency_class, consistency_augment)
            self.asks = _asks(archive, device, self.rng, weights)

    def accumulate_gradients(
        self,
        phase: str,
        real_img: torch.Tensor,
        real_c: torch.Tensor,
        gen_z: torch.Tensor,
        gen_c: torch.Tensor,
        sync: bool,
        gain: float,
    ) -> None:
        """As the checkout's; in its main phase G is also charged by the classifier and for a lack of diversity."""
        strength = consistency_strength(self.nimg, self.start_kimg, self.ramp_kimg)
        twins = phase in ("Gmain", "Gboth") and self.diversity is not None
        self.fakes = fakes = self._fakes(gen_z, gen_c, twins)
        asked = self.asks is not None and strength > 0
        if phase in ("Gmain", "Gboth") and (asked or self.diversity is not None):
            self.charged = _Charge(strength, gain, sync, gen_z)
        try:
            super().accumulate_gradients(phase, real_img, real_c, gen_z, fakes.given, sync, gain)
        finally:
            self.charged = self.fakes = None
        if phase in ("Dmain", "Dboth"):
            self.nimg += len(real_img) * self.processes

    def run_G(self, z: torch.Tensor, c: torch.Tensor, sync: bool) -> Any:
        """As the checkout's; latents that it mixes in share the numbers that settle what a fake is to be (`losses`)."""

        def share(mapping: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            return torch.cat([z[:, :SETTLED], given[0][:, SETTLED:]], dim=1), *given[1:]

        if self.ranks is None and self.witness is None and (self.asks is None or self.asks.class_weight == 0):
            return super().run_G(z, c, sync)  # none is settled
        hook = self.G_mapping.register_forward_pre_hook(share)
        try:
            return super().run_G(z, c, sync)
        finally:
            hook.remove()

    def run_D(self, img: torch.Tensor, c: torch.Tensor, sync: bool) -> torch.Tensor:
        """Logits of D; under `accumulate_gradients` of G the images carry the classifier's charge."""
        if self.charged is not None and img.requires_grad:
            charge, self.charged = self.charged, None
            img = _Charged.apply(img, self._charge(img, c, charge), charge.gain)
        fakes = self.fakes
        told = fakes.told if fakes is not None and c is fakes.given else self._told_of_reals(img, c)
        return super().run_D(img, told, sync)

    def _fakes(self, z: torch.Tensor, c: torch.Tensor, twins: bool) -> _Fakes:
        given, told = self.noise.fakes(c)
        if twins:
            given, told = twin_labels(given), twin_labels(told)
        if self.ranks is not None:
            told = torch.cat([told, Settled(z).sharpness[:, None]], dim=1)
        return _Fakes(given, told)

    def _told_of_reals(self, img: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        told = c if self.noise.kappa > 0 else self.noise.told(c)  # `MspDataset` draws noisy levels for the vicinity
        if self.ranks is not None:
            told = torch.cat([told, self.ranks(img.detach(), c)[:, None]], dim=1)
        return told

    def _charge(self, img: torch.Tensor, c: torch.Tensor, how: _Charge) -> torch.Tensor:
        """All that G is charged for its fakes img beside D's judgement, a scalar."""
        total = img.new_zeros(())
        if self.diversity is not None:
            lacking = self.diversity.charge(img, c)
            training_stats.report("Loss/G/diversity", lacking)
            total = total + self.diversity.weight * lacking
        if self.asks is not None and how.strength > 0:
            total = total + how.strength * self._answers(self.asks, img, c, how)
        return total

    def _answers(self, asks: Consistency, img: torch.Tensor, c: torch.Tensor, how: _Charge) -> torch.Tensor:
        """Weighted distances of the classifier's answers from the levels asked for and from the class, a scalar."""
        distance, strayed = asks.charge(img, c, how.z)
        training_stats.report("Loss/G/consistency", distance)
        total = asks.weight * distance
        if self.witness is not None:
            charge = self.witness.charge(img, c, how.z, asks.named_right(c, how.z))
            training_stats.report("Loss/G/witness", charge)
            total = total + self.witness.weight * charge
        if asks.uniform > 0:
            c = asks.uniform_labels(len(c))
            z = self.rng.randn(len(c), self._z_dim())
            more, _ = self.run_G(z, c, sync=how.sync)
            distance, also_strayed = asks.charge(more, c, z)
            training_stats.report("Loss/G/consistency_uniform", distance)
            total = total + asks.uniform * distance
            strayed = (strayed + also_strayed) / 2
        if asks.agreement is not None:
            training_stats.report("Loss/G/class", strayed)
            total = total + asks.class_weight * strayed
        return total

    def _z_dim(self) -> int:
        mapping: Any = self.G_mapping
        return int(getattr(mapping, "module", mapping).z_dim)


@dataclass(frozen=True)
class _Fakes:
    """Labels of a phase's fakes: what G is given and what D is told."""

    given: torch.Tensor
    told: torch.Tensor


@dataclass(frozen=True)
class _Charge:
    """How the classifier charges G in one pass: factor of the terms, gain and synchronisation, and G's latents."""

    strength: float
    gain: float
    sync: bool
    z: torch.Tensor


class _Charged(torch.autograd.Function):
    """The images as they are; a gradient that comes back through them starts that of ``charge`` too, times ``gain``."""

    @staticmethod
    def forward(ctx: Any, img: torch.Tensor, charge: torch.Tensor, gain: float) -> torch.Tensor:
        ctx.gain = gain
        ctx.like = charge.detach()
        return img.view_as(img)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        return grads[0], torch.full_like(ctx.like, ctx.gain), None


def _asks(path: str, device: torch.device, rng: BatchRng, weights: tuple[float, ...]) -> Consistency:
    archive = open_archive(path)
    assert archive.classifier_bytes is not None  # `train_options` has looked
    classifier = FrozenClassifier.from_bytes(archive.classifier_bytes, path).to(device)
    right = archive.named_right()
    named_right = None if right is None else torch.from_numpy(right).to(device)
    return ask(classifier, torch.from_numpy(archive.labels()).to(device), named_right, rng, *weights)
