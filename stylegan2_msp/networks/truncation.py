"""The centre of each label in W: the mean of mapping(z, c) over a fixed set of z."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

_SEED = 20231
_ROWS_AT_ONCE = 16384
_MAX_CACHED = 8192
_MOST_SAMPLES = 1 << 20


class _Mapping(Protocol):
    def to_w(self, z: torch.Tensor | None, c: torch.Tensor | None) -> torch.Tensor: ...

    def parameters(self) -> Iterator[torch.Tensor]: ...

    def buffers(self) -> Iterator[torch.Tensor]: ...


class ConditionalMean:
    """Mean of w for each label, computed once per label and set of weights.

    The set of z comes from its own generator, so no other random number changes. Results are kept by the label's
    bytes, and thrown away when a parameter or buffer of the mapping network changed (by its version counter).

    Args:
        z_dim: size of the latent.
        samples: how many z the mean is taken over.
    """

    def __init__(self, z_dim: int, samples: int) -> None:
        if not 1 <= samples <= _MOST_SAMPLES:
            raise ValueError(f"truncation_samples must be in [1, {_MOST_SAMPLES}], got {samples}")
        self.z_dim, self.samples = z_dim, samples
        self._means: dict[bytes, torch.Tensor] = {}
        self._made_for: tuple[tuple[int, int], ...] = ()

    def z(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The fixed latents, float32 [samples, z_dim], the same on every device and in every process."""
        generator = torch.Generator("cpu").manual_seed(_SEED)
        return torch.randn([self.samples, self.z_dim], generator=generator, dtype=torch.float32).to(device)

    def of(self, mapping: _Mapping, c: torch.Tensor | None, device: torch.device) -> torch.Tensor:
        """Means of w for labels c [N, c_dim] (or none): [N, w_dim] (or [1, w_dim]), differentiable for c."""
        if c is not None and c.requires_grad and torch.is_grad_enabled():
            return self._compute(mapping, c, device)
        self._forget_if_changed(mapping)
        rows = torch.zeros([1, 0]) if c is None else c.detach().to("cpu", torch.float32)
        keys = [row.tobytes() for row in rows.numpy()]
        missing = {key: i for i, key in enumerate(keys) if key not in self._means}
        if len(self._means) + len(missing) > _MAX_CACHED:
            self._means.clear()
            missing = {key: i for i, key in enumerate(keys)}
        if missing:
            asked = None if c is None else rows[list(missing.values())].to(device)
            with torch.no_grad():
                self._means.update(zip(missing, self._compute(mapping, asked, device), strict=True))
        return torch.stack([self._means[key] for key in keys])

    def _compute(self, mapping: _Mapping, c: torch.Tensor | None, device: torch.device) -> torch.Tensor:
        z = self.z(device)
        if c is None:
            return mapping.to_w(z, None).mean(dim=0, keepdim=True)
        means = []
        for some in c.split(max(1, _ROWS_AT_ONCE // self.samples)):
            w = mapping.to_w(z.repeat(len(some), 1), some.repeat_interleave(self.samples, dim=0))
            means.append(w.reshape(len(some), self.samples, -1).mean(dim=1))
        return torch.cat(means)

    def _forget_if_changed(self, mapping: _Mapping) -> None:
        state = [*mapping.parameters(), *mapping.buffers()]
        stamp = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in state)
        if stamp != self._made_for:
            self._means.clear()
            self._made_for = stamp
