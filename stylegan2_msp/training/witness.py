"""A second network that is to know fakes as well as it knows reals, lest their doubt be the classifier's alone."""

from __future__ import annotations

import math

import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.classifiers.train import train_classifier
from stylegan2_msp.data.dataset import TrainingSet
from stylegan2_msp.errors import UserError
from stylegan2_msp.progress import tell
from stylegan2_msp.seeds import Settled
from stylegan2_msp.training.neighbours import Neighbours, some_reals

_MOST = 65_536  # reals that are looked at: half of them train the witness, it is asked about the others
_MOST_BYTES = 2**30  # ... of large images fewer
_SEED = 40127  # of no other classifier that this program trains by default
# What makes a witness again, for the state of a run: 'network', its bytes, uint8; 'rows', the reals that it was asked
# about, int64 [N]; 'values', what it said of them, float32 [N].
Kept = dict[str, torch.Tensor]


class Witness:
    """A classifier of the true labels, of an architecture of its own, and what it says of reals.

    Of a real it has not seen it gives the class some probability. Among the 64 reals of a label's class that are
    nearest in level, those that f names right (or wrong) have a distribution of it; a fake that f is to name so is to
    have a number drawn from the same. So what makes fakes doubtful must be in the picture, and not in f alone.
    (Transferability of what fools one network to another: Liu et al. 2017, "Delving into transferable adversarial
    examples".)

    Args:
        network: the classifier.
        values: the probability that it gives reals' own classes, float32 [N]; it was not trained on these reals.
        labels: theirs, [N, K + 1].
        named_right: whether f names each of them as its class, bool [N], or None if that is not known.
        weight: of the charge.
    """

    def __init__(
        self,
        network: FrozenClassifier,
        values: torch.Tensor,
        labels: torch.Tensor,
        named_right: torch.Tensor | None,
        weight: float,
    ) -> None:
        self.network, self.values, self.named_right, self.weight = network, values, named_right, weight
        self.neighbours = Neighbours(labels, network.num_classes)

    def charge(
        self, img: torch.Tensor, c: torch.Tensor, z: torch.Tensor, named_right: torch.Tensor | None
    ) -> torch.Tensor:
        """Mean of |p - q|: p is what the witness gives the class asked for, q what it gives a real in its place.

        Args:
            img: fakes [n, C, H, W].
            c: their labels [n, c_dim].
            z: their latents [n, z_dim], which settle which of the reals alike stands for each (`seeds.Settled`).
            named_right: whether f is to name each fake as its class, bool [n]; None where nothing settles that.
        """
        classes = c[:, : self.network.num_classes].argmax(dim=1)
        p = self.network.probs(img.clamp(-1, 1)).gather(1, classes[:, None])[:, 0]
        return (p - self.wanted(c, Settled(z).legibility, named_right)).abs().mean()

    def wanted(self, c: torch.Tensor, place: torch.Tensor, named_right: torch.Tensor | None) -> torch.Tensor:
        """q of `charge`, [n], by its place in [0, 1] among the reals alike; where none is, any of them counts."""
        near = self.neighbours.of(c)
        values, count = self.values[near], torch.full_like(near[:, 0], near.shape[1])
        if named_right is not None and self.named_right is not None:
            alike = self.named_right[near] == named_right[:, None]
            alike = alike | ~alike.any(dim=1, keepdim=True)
            values, count = values.masked_fill(~alike, math.inf), alike.sum(dim=1)
        at = torch.minimum((place * count).long(), count - 1)
        return values.sort(dim=1).values.gather(1, at[:, None])[:, 0]


def make_witness(data: TrainingSet, num_classes: int) -> Kept | None:
    """Trains a witness on half of the images, and asks it about the other half; None where there are too few.

    Both halves hold the same classes and levels. Images that cannot be read are left out.
    """
    most = _MOST_BYTES // math.prod(data.data.shape[1:])
    chosen = some_reals(data, num_classes, min(_MOST, max(most, 2)))
    in_turns = chosen[Neighbours(data.labels[chosen], num_classes).order]
    classes = data.labels[:, :num_classes].argmax(dim=1)
    tell("Training the witness, a second classifier (--consistency-witness).")
    try:
        rows, images = data.looked_at(in_turns[::2], _as_bytes, "reading images")
        device = data.labels.device
        network = train_classifier(images, classes[rows].cpu(), num_classes, _SEED, device, arch="strided")
        rows, probs = data.looked_at(in_turns[1::2], network.probs, "asking the witness")
    except UserError as error:
        tell(f"There is none: {error}.")
        return None
    values = probs.gather(1, classes[rows][:, None])[:, 0]
    bytes_of = torch.frombuffer(bytearray(network.to_bytes()), dtype=torch.uint8)
    return {"network": bytes_of, "rows": rows.cpu(), "values": values.cpu()}


def recall_witness(kept: Kept, data: TrainingSet, weight: float) -> Witness:
    """The witness that `make_witness` made of these data."""
    device = data.labels.device
    network = FrozenClassifier.from_bytes(kept["network"].numpy().tobytes(), "the witness").to(device)
    rows = kept["rows"].to(device)
    right = None if data.named_right is None else data.named_right[rows]
    return Witness(network, kept["values"].to(device), data.labels[rows], right, weight)


def _as_bytes(img: torch.Tensor) -> torch.Tensor:
    return ((img + 1) * 127.5).round().to(torch.uint8).cpu()
