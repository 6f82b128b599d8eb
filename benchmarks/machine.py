"""The machine's description and limits, for the benchmarks, and how results are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torch_utils_ext.machine import copy_bandwidth, describe, matrix_peak, synchronize

__all__ = ["copy_bandwidth", "describe", "matrix_peak", "save", "synchronize"]


def save(results: dict[str, Any], path: str | Path) -> None:
    """Writes results with the machine's description beside them, as JSON, making folders as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps({"machine": describe(), **results}, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
