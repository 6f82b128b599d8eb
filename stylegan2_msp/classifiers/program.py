"""A classifier given as a graph of tensor operators, replayed operator by operator; no code is ever read from a file."""

from __future__ import annotations

from typing import Any

from torch import nn

from stylegan2_msp.errors import UserError


class Program(nn.Module):
    """Placeholder until programs can be read."""

    def __init__(self, graph: dict[str, Any]) -> None:
        super().__init__()
        raise UserError("classifier: programs are not supported")
