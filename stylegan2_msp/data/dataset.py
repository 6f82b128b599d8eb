"""The training data, and the order in which its samples are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from stylegan2_msp.conditioning import level
from stylegan2_msp.data.archive import Archive
from stylegan2_msp.data.lazy import LazyImages, Rows
from stylegan2_msp.data.storage import Alone, Group, store_images
from stylegan2_msp.errors import UserError
from stylegan2_msp.progress import track
from torch_utils_ext.rng import BatchRng

_LOOKED_AT_ONCE = 1024


class TrainingSet:
    """Samples and their labels, held as uint8 (images) or float32 (points) so that a batch is one indexing.

    Images that do not fit in memory stay in the archive and are decoded batch by batch (`storage.store_images`).

    Args:
        archive: the data.
        condition: 'none', 'class' or 'class+msp': what the label vector holds.
        device: where samples are handed out, and kept if they fit.
        subset: use only this many, a random subset.
        seed: seed of the subset.
        mirror: hand out a random half of the images flipped.
        workers: threads that decode the images.
        group: the processes of the run; they decode each image once per machine.

    Attributes:
        data: uint8 [N, C, H, W] or float32 [N, 2].
        labels: float32 [N, c_dim]; c_dim is 0, K, K + 1 or 2 K.
        named_right: whether the classifier names each sample as its class, bool [N], or None if that is not known.
        index: position of each sample in the archive, int64 [N].
    """

    def __init__(
        self,
        archive: Archive,
        condition: str,
        device: torch.device,
        subset: int | None = None,
        seed: int = 0,
        mirror: bool = False,
        workers: int = 2,
        group: Group | None = None,
    ) -> None:
        self.kind = archive.kind
        self.mirror = mirror
        self.index = np.arange(len(archive))
        if subset is not None and subset < len(archive):
            self.index = np.sort(np.random.RandomState(seed).permutation(len(archive))[:subset])
        self.data: torch.Tensor | LazyImages
        if self.kind == "points":
            self.data = torch.from_numpy(archive.load_points()[self.index]).to(device)
        else:
            self.data = store_images(archive, self.index, device, workers, group or Alone())
        self.labels = torch.from_numpy(_label_rows(archive, condition)[self.index]).to(device)
        right = archive.named_right()
        self.named_right = None if right is None else torch.from_numpy(right[self.index]).to(device)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def lazy(self) -> bool:
        """Whether images are decoded when they are wanted; then reading one can fail at any time."""
        return isinstance(self.data, LazyImages)

    def expect(self, now: Sequence[torch.Tensor], later: Sequence[torch.Tensor]) -> UserError | None:
        """Reads ahead where images are decoded when they are wanted.

        Args:
            now: indices of the batches that this step asks for; they are waited for.
            later: indices of those that the next one asks for, if it does; they are only begun.

        Returns:
            What is wrong with an image of ``now`` that cannot be read.
        """
        if not isinstance(self.data, LazyImages):
            return None
        self.data.expect([*now, *later])
        return self.data.problem(now)

    def reals(self, index: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
        """Samples as D and the classifier see them: images float32 [n, C, H, W] in [-1, 1], points [n, 2] as they are.

        Args:
            index: which, int64 [n].
            flip: which of them to mirror, bool [n].

        Raises:
            UserError: an image that is decoded only now cannot be read.
        """
        return self.shown(self.stored(index), flip)

    def stored(self, index: torch.Tensor) -> torch.Tensor:
        """Samples as they are kept, on the device where they are handed out.

        Args:
            index: which, int64 [n].

        Raises:
            UserError: an image that is decoded only now cannot be read.
        """
        batch = self.data[on_device(index, self.data.device) if isinstance(self.data, torch.Tensor) else index]
        return on_device(batch, self.labels.device)

    def shown(self, stored: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
        """What `reals` makes of `stored` samples."""
        if self.kind == "points":
            return stored
        img = stored.to(torch.float32) / 127.5 - 1
        if flip is not None:
            img = torch.where(flip[:, None, None, None], img.flip(3), img)
        return img

    def looked_at(
        self, index: torch.Tensor, look: Callable[[torch.Tensor], torch.Tensor], description: str = ""
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What ``look`` says of samples as `reals` gives them: indices of those looked at, and its values.

        An image that cannot be read is left out: training says so, and saves its state, when it comes to that image.

        Args:
            index: which, int64 [n].
            look: maps a batch to one row for each of its samples.
            description: of a progress bar; none is shown without it.

        Raises:
            UserError: none can be read.
        """
        batches: Iterable[torch.Tensor] = index.split(_LOOKED_AT_ONCE)
        if description:
            batches = track(batches, description, len(index), "images", _LOOKED_AT_ONCE)
        looked = [part for batch in batches for part in self._readable(batch, look)]
        if not looked:
            self.reals(index[:1])  # raises what is wrong
        return torch.cat([rows for rows, _ in looked]), torch.cat([values for _, values in looked])

    def _readable(
        self, index: torch.Tensor, look: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        try:
            return [(index, look(self.reals(index)))]
        except UserError:
            halves = index.chunk(2) if len(index) > 1 else ()
            return [part for half in halves for part in self._readable(half, look)]

    def on_host(self) -> Any:
        """The samples as they are kept, uint8 [N, C, H, W] or float32 [N, 2]: an array, or what gives single rows."""
        return Rows(self.data) if isinstance(self.data, LazyImages) else self.data.cpu().numpy()


class SampleOrder:
    """Which samples come next, for all processes together; its whole state is one number.

    With ``flatten`` = 0 every sample comes once per epoch in a fresh order. With ``flatten`` > 0 samples are drawn with
    replacement, a share ``flatten`` of them so that within each class all MSP levels (bins of width 0.05 that hold
    samples) are equally frequent. Fakes get labels from the same distribution, so p(x | c) is untouched.
    """

    def __init__(self, labels: torch.Tensor, num_classes: int, flatten: float, seed: int) -> None:
        self.size = labels.shape[0]
        self.seed = seed
        self.position = 0
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)
        self.cumulative: torch.Tensor | None = None
        if flatten > 0:
            weights = (1 - flatten) / self.size + flatten * flat_weights(labels, num_classes)
            self.cumulative = weights.cumsum(0)
            self._on_host = self.cumulative.cpu()

    def reals(self, n: int, rng: BatchRng) -> torch.Tensor:
        """Indices of this process's next n reals, int64 [n] on the host."""
        (picked,) = self.upcoming(n, 1, rng)
        self.position += n * rng.world_size
        return picked

    def upcoming(self, n: int, calls: int, rng: BatchRng) -> list[torch.Tensor]:
        """What the next ``calls`` calls of `reals` will give; nothing changes."""
        total = n * rng.world_size
        return [self._picked(self.position + k * total, total)[rng.rank :: rng.world_size] for k in range(calls)]

    def labels_of_fakes(self, n: int, rng: BatchRng) -> torch.Tensor:
        """Indices of random samples whose labels n fakes take, int64 [n]."""
        if self.cumulative is None:
            return rng.randint(self.size, n)
        return _search(self.cumulative, rng.rand(n).to(torch.float64))

    def _picked(self, position: int, total: int) -> torch.Tensor:
        """The samples at these positions for all processes: a function of seed and position alone."""
        if self.cumulative is not None:
            place = np.random.default_rng((self.seed, position)).random(total)
            return _search(self._on_host, torch.from_numpy(place))
        return torch.cat([self._at(position + i, total - i) for i in self._starts(position, total)])

    def _starts(self, position: int, total: int) -> list[int]:
        """Offsets within the next ``total`` samples at which an epoch begins."""
        first = -position % self.size
        return sorted({0, *range(first, total, self.size)})

    def _at(self, position: int, n: int) -> torch.Tensor:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order, self._epoch = torch.randperm(self.size, generator=generator), epoch
        return self._order[offset : offset + n]

    def state_dict(self) -> dict[str, Any]:
        """The place in the order."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues at a saved place."""
        self.position = int(state["position"])


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device, without waiting for work that the device still has."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _search(cumulative: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Which sample's share of the whole holds each place in [0, 1)."""
    found = torch.searchsorted(cumulative, place * cumulative[-1], right=True)
    return found.clamp_(max=len(cumulative) - 1)


def flat_weights(labels: torch.Tensor, num_classes: int, width: float = 0.05) -> torch.Tensor:
    """Weights, float64 [N] with sum 1, under which each class keeps its share and its levels are equally likely.

    The level of a sample is its uncertainty in [0, 1], of softmax vectors the probability of its class.
    """
    classes = labels[:, :num_classes].argmax(dim=1)
    count = round(1 / width)
    bins = ((1 - level(labels, num_classes).to(torch.float64)) / width).long().clamp(max=count - 1)
    cell = classes * count + bins
    _, inverse, counts = cell.unique(return_inverse=True, return_counts=True)
    weights = 1 / counts[inverse].to(torch.float64)
    share = torch.bincount(classes, minlength=num_classes).to(torch.float64) / labels.shape[0]
    total = torch.zeros(num_classes, dtype=torch.float64, device=labels.device).index_add_(0, classes, weights)
    return weights / total[classes] * share[classes]


def _label_rows(archive: Archive, condition: str) -> np.ndarray:
    if condition == "class+msp":
        return archive.labels()
    if condition == "class":
        return np.eye(archive.num_classes, dtype=np.float32)[archive.classes]
    if condition != "none":
        raise ValueError(f"condition must be 'none', 'class' or 'class+msp', found {condition!r}")
    return np.zeros((len(archive), 0), dtype=np.float32)
