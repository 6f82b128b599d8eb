"""The checkout's data set with labels [class one-hot, uncertainty]; imported inside a checkout only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from training.dataset import ImageFolderDataset  # type: ignore[import-not-found]

from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.data.dataset import flat_weights
from stylegan2_msp.errors import UserError
from stylegan2_msp.training.labels import Vicinity

_TURNS = 4  # length of the flattened order, in data sets: enough that no image is left out at a share of 1/2


class MspDataset(ImageFolderDataset):
    """Images of an annotated archive with label vectors, float32 [K + 1], or [2 K] for softmax vectors.

    With ``flatten`` > 0 it is four times as long as the archive and shows each image so often that reals and the labels
    of fakes, which the training loop draws from it alike, follow the flattened distribution of `docs/method.md`.

    With ``vicinal`` > 0 an item is an image whose level is near to a noisy one, and the label that D is told of it
    (`training.labels.LabelDraws`); `get_label` gives labels as they are.

    Args:
        path: archive, zip or folder.
        flatten: share of samples drawn with equal levels per class.
        vicinal: half-width of the vicinity in units of the measure.
        label_noise: standard deviation of the noise on the level, for ``vicinal``.
        uncertainty: name of the measure; only kept with the network, for those who load it.
        kwargs: of the checkout's class.

    Raises:
        UserError: the archive is not annotated, or flips are asked for.
    """

    _raw_idx: np.ndarray
    _xflip: np.ndarray

    def __init__(
        self,
        path: str,
        flatten: float = 0.0,
        uncertainty: str = "msp",
        vicinal: float = 0.0,
        label_noise: float = 0.0,
        **kwargs: Any,
    ) -> None:
        archive = open_archive(path)
        self._msp_labels = archive.labels()
        self._msp_levels = archive.levels()
        self.num_classes = archive.num_classes
        super().__init__(path=path, **kwargs)
        if [name.replace("\\", "/") for name in self._image_fnames] != archive.names:
            raise UserError(f"{path}: holds images that the checkout reads otherwise; make the archive again")
        if self._xflip.any():
            raise UserError("--mirror: a flipped image would keep the unflipped one's MSP; leave it out")
        if flatten > 0:
            self._flatten(flatten)
        self.kappa, self.sigma = vicinal, label_noise
        self.vicinity = None
        if vicinal > 0:
            self.vicinity = Vicinity(torch.from_numpy(self.classes), torch.from_numpy(self.levels))

    def __getitem__(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        """Image, uint8 [C, H, W], and its label; see the class for ``vicinal``."""
        if self.vicinity is None:
            return self.recorded(idx)
        label = self.get_label(idx).copy()
        label[-1] += self.sigma * float(torch.randn(()))
        cls, asked = torch.from_numpy(label[: self.num_classes]).argmax()[None], torch.from_numpy(label[-1:])
        row = int(self.vicinity.pick(cls, asked, self.kappa, torch.rand(1)))
        return self.recorded(row)[0], label

    def recorded(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        """An item with its own label."""
        item: tuple[np.ndarray, np.ndarray] = super().__getitem__(idx)
        return item

    def _flatten(self, share: float) -> None:
        """Repeats each image as often as its weight asks for, rounded up or down."""
        labels = torch.from_numpy(self._msp_labels[self._raw_idx])
        weights = (1 - share) / len(labels) + share * flat_weights(labels, self.num_classes).numpy()
        places = (np.arange(_TURNS * len(labels)) + 0.5) / (_TURNS * len(labels))
        cumulative = np.cumsum(weights)
        found = np.searchsorted(cumulative, places * cumulative[-1]).clip(max=len(labels) - 1)
        self._raw_idx = self._raw_idx[found]
        self._xflip = np.zeros(len(found), dtype=np.uint8)

    def _load_raw_labels(self) -> np.ndarray:
        return self._msp_labels

    @property
    def classes(self) -> np.ndarray:
        """Class of each item, int64 [len]."""
        return self._msp_labels[self._raw_idx, : self.num_classes].argmax(axis=1)

    @property
    def levels(self) -> np.ndarray:
        """Level of each item, float32 [len]; of softmax vectors the class's probability."""
        return self._msp_levels[self._raw_idx]
