"""Our networks as a checkout of stylegan2-ada-pytorch expects to find them in its pickles.

A pickle refers to `rebuild` by name and holds plain data besides; no source code travels in it, so loading it needs
this package installed.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from stylegan2_msp.networks import Discriminator, Generator

_MISSING = object()


class Arguments(dict[str, Any]):
    """Arguments by key and, as the checkout's code asks for them, by attribute."""

    __setattr__ = dict.__setitem__

    def __getattr__(self, key: str) -> object:
        found: object = self.get(key, _MISSING)
        if found is _MISSING:
            raise AttributeError(f"no argument is called {key!r}")
        return found


class _Pickled(nn.Module):
    """Pickles as a call of `rebuild` with the class's name, its arguments and its tensors."""

    init_args: tuple[()] = ()
    init_kwargs: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.init_kwargs = Arguments(self.init_kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        name = next(name for name, kind in _KINDS.items() if isinstance(self, kind))
        return rebuild, (name, json.dumps(self.init_kwargs), safetensors.torch.save(state))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pickled:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


class ReferenceGenerator(_Pickled, Generator):
    """`Generator`, for pickles that a checkout reads, and for its training loop, which writes into ws."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mapping.register_forward_hook(_with_memory_of_its_own)


def _with_memory_of_its_own(module: nn.Module, args: Any, ws: Tensor) -> Tensor:
    return ws.contiguous()


class ReferenceDiscriminator(_Pickled, Discriminator):
    """`Discriminator`, for pickles that a checkout reads, and for its training loop.

    Where D is told the sharpness (`training.sharpness`), the checkout knows nothing of it: a label without it means the
    middle, 0.5.

    Args:
        sharpness: makes the label one longer than ``c_dim``, which is that of the data.
    """

    def __init__(self, *args: Any, sharpness: bool = False, **kwargs: Any) -> None:
        if sharpness:
            mapping = kwargs["mapping_kwargs"]
            kwargs["mapping_kwargs"] = {**mapping, "u_dim": mapping.get("u_dim", 1) + 1}
            kwargs["c_dim"] += 1
        super().__init__(*args, **kwargs)

    def forward(self, img: Tensor, c: Tensor | None, force_fp32: bool = False) -> Tensor:
        """As `Discriminator`; the label may lack its last number, the sharpness."""
        told_more = (self.init_kwargs["mapping_kwargs"] or {}).get("u_dim", 1) > 1
        if c is not None and told_more and c.shape[1] == self.c_dim - 1:
            c = nn.functional.pad(c, (0, 1), value=0.5)
        return super().forward(img, c, force_fp32)


_KINDS: dict[str, type[_Pickled]] = {"Generator": ReferenceGenerator, "Discriminator": ReferenceDiscriminator}


def rebuild(name: str, init_kwargs: str, state: bytes) -> nn.Module:
    """The network `name` ('Generator' or 'Discriminator') in eval mode.

    Args:
        name: which class.
        init_kwargs: its arguments, JSON.
        state: its tensors, the bytes of a safetensors file.
    """
    network = _KINDS[name](**json.loads(init_kwargs))
    network.load_state_dict(safetensors.torch.load(state))
    return network.eval().requires_grad_(False)


def adapted(network: nn.Module) -> nn.Module:
    """A copy of a `Generator` or `Discriminator` that a checkout's pickle may hold.

    Raises:
        ValueError: another network.
    """
    name = type(network).__name__
    if name not in _KINDS:
        raise ValueError(f"only Generator and Discriminator have a place in the family's pickles, got {name}")
    kwargs: Any = network.init_kwargs
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    return rebuild(name, json.dumps(kwargs), safetensors.torch.save(state))
