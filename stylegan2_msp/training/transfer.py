"""Starting a new run from the weights of another one."""

from __future__ import annotations

from pathlib import Path

import torch

from stylegan2_msp.errors import UserError
from stylegan2_msp.snapshot import load_snapshot
from stylegan2_msp.training.checkpoint import TrainState, load_state


def load_weights(path: Path, state: TrainState) -> None:
    """Copies weights from a snapshot (G) or a training state (G, D and G_ema) wherever name and shape agree.

    Raises:
        UserError: nothing fits.
    """
    if path.suffix == ".safetensors":
        weights = load_snapshot(path).G.state_dict()
        sources = {"G": weights, "G_ema": weights}
    else:
        saved = load_state(path)[1]
        sources = {name: saved[name] for name in ("G", "D", "G_ema")}
    copied = sum(_copy(source, getattr(state, name)) for name, source in sources.items())
    if not copied:
        raise UserError(f"--resume {path}: none of its weights fits this network; use the same --cfg and resolution")
    print(f"Took {copied} tensors from {path}.", flush=True)


@torch.no_grad()
def _copy(source: dict[str, torch.Tensor], network: torch.nn.Module) -> int:
    fitting = {k: v for k, v in source.items() if k in (own := network.state_dict()) and own[k].shape == v.shape}
    network.load_state_dict(fitting, strict=False)
    return len(fitting)
