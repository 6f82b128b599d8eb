"""Images that stay packed in their archive and are decoded by worker threads when they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue

import numpy as np
import torch

from stylegan2_msp.data.archive import Archive
from stylegan2_msp.data.members import Reader
from stylegan2_msp.errors import UserError

_Pending = tuple[torch.Tensor, list["Future[None]"]]


class LazyImages:
    """Indexing decodes: memory holds the batches that are wanted next and nothing else, however large the archive.

    The archive is opened once for every worker, so a run goes on with the file that it began with when another is put
    in its place. Pillow and zlib let other threads run while they work, so the workers decode side by side.

    Args:
        archive: holds the images.
        index: which of them, int64 [N]; rows are counted in it.
        workers: threads.
        pin: hand out memory that a GPU can copy from asynchronously.
    """

    def __init__(self, archive: Archive, index: np.ndarray, workers: int, pin: bool = False) -> None:
        self.archive = archive
        self.index = index
        self.pin = pin
        self.shape = (len(index), archive.img_channels, archive.img_resolution, archive.img_resolution)
        self._workers = max(workers, 1)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        self._pending: dict[bytes, _Pending] = {}
        self._open = ExitStack()
        self._readers: SimpleQueue[Reader] = SimpleQueue()
        for _ in range(self._workers):
            self._readers.put(self._open.enter_context(archive.members.reading()))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """The images of these rows, int64 [n] -> uint8 [n, C, H, W] on the host.

        Raises:
            UserError: one cannot be read.
        """
        rows = rows.cpu()
        key = _key(rows)
        images, parts = self._pending.pop(key) if key in self._pending else self._start(rows)
        for part in parts:
            part.result()
        return images

    def expect(self, batches: Sequence[torch.Tensor]) -> None:
        """Begins to decode batches that will be asked for, and forgets earlier ones that are not among these."""
        before, self._pending = self._pending, {}
        for rows in batches:
            key = _key(rows)
            self._pending[key] = before.pop(key) if key in before else self._start(rows)
        for _, parts in before.values():
            for part in parts:
                part.cancel()

    def problem(self, batches: Sequence[torch.Tensor]) -> UserError | None:
        """Waits for expected batches; says what is wrong where an image cannot be read."""
        for rows in batches:
            for part in self._pending.get(_key(rows), (None, ()))[1]:
                error = part.exception()
                if isinstance(error, UserError):
                    return error
                if error is not None:
                    raise error
        return None

    def _start(self, rows: torch.Tensor) -> _Pending:
        images = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8, pin_memory=self.pin)
        step = -(-len(rows) // self._workers) or 1
        starts = range(0, len(rows), step)
        chosen = self.index[rows.numpy()]
        target = images.numpy()
        return images, [
            self._pool.submit(self._decode, chosen[at : at + step], target[at : at + step]) for at in starts
        ]

    def _decode(self, rows: np.ndarray, target: np.ndarray) -> None:
        read = self._readers.get()
        try:
            for place, row in enumerate(rows.tolist()):
                target[place] = self.archive.image(row, read)
        finally:
            self._readers.put(read)


class Rows:
    """One image at a time as an array, in the way that an array of all of them would give it."""

    def __init__(self, images: LazyImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> np.ndarray:
        """uint8 [C, H, W]."""
        return self.images[torch.tensor([int(row)])][0].numpy()


def _key(rows: torch.Tensor) -> bytes:
    return rows.numpy().tobytes()
