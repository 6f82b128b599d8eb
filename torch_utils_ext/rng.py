"""Random numbers of a whole batch, shared by all processes that work on it."""

from __future__ import annotations

import hashlib
from typing import Any

import torch


class BatchRng:
    """Draws the numbers of the global batch and hands out this process's rows of them.

    Every process holds the same generator state. A draw for ``n`` local rows makes ``n * world_size`` rows and keeps
    rows ``rank::world_size``, so that N processes together see exactly the numbers that one process would see, and one
    saved state resumes them all. Strided rows keep the discriminator's minibatch-standard-deviation groups intact.

    Args:
        seed: seed of the generator, the same on every process.
        device: where the numbers are made.
        rank: index of this process, in [0, world_size).
        world_size: number of processes that share the batch.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1) -> None:
        self.device = torch.device(device)
        self.rank = rank
        self.world_size = world_size
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def _mine(self, batch: torch.Tensor) -> torch.Tensor:
        return batch[self.rank :: self.world_size] if self.world_size > 1 else batch

    def randn(self, n: int, *shape: int) -> torch.Tensor:
        """Standard normal numbers, float32 [n, *shape]."""
        size = (n * self.world_size, *shape)
        return self._mine(torch.randn(size, generator=self.generator, dtype=torch.float32, device=self.device))

    def rand(self, n: int, *shape: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), float32 [n, *shape]."""
        size = (n * self.world_size, *shape)
        return self._mine(torch.rand(size, generator=self.generator, dtype=torch.float32, device=self.device))

    def randint(self, high: int, n: int) -> torch.Tensor:
        """Integers in [0, high), int64 [n]."""
        size = (n * self.world_size,)
        return self._mine(torch.randint(high, size, generator=self.generator, device=self.device))

    def shared(self, *shape: int) -> torch.Tensor:
        """Uniform numbers in [0, 1) that are the same on every process, float32 [*shape]."""
        return torch.rand(shape, generator=self.generator, dtype=torch.float32, device=self.device)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state, the same on every process."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state_dict` gave.

        A generator of the CPU cannot go on where one of a GPU was, nor the other way: there the state is the seed of
        other numbers, again the same on every process.
        """
        saved = state["generator"]
        if saved.shape == self.generator.get_state().shape:
            self.generator.set_state(saved)
        else:
            digest = hashlib.sha256(saved.numpy().tobytes()).digest()
            self.generator.manual_seed(int.from_bytes(digest[:6], "big"))
