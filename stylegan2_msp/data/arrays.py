"""The arrays beside dataset.json: read without running code, and checked against the labels."""

from __future__ import annotations

import io

import numpy as np
import torch

from stylegan2_msp.data.manifest import TOLERANCE, Manifest, first_bad
from stylegan2_msp.errors import UserError
from stylegan2_msp.uncertainty import MEASURES


def parse_array(data: bytes, shape: tuple[int | None, int], where: str) -> np.ndarray:
    """Reads a .npy file that must hold finite float32 of this shape (None: any length); runs no code.

    Raises:
        UserError: it is not such a file.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found_shape, fortran, dtype = read_header(stream)
    except Exception as error:  # numpy parses the header as a Python literal and lets every parser error through
        raise UserError(f"{where}: is not a .npy array ({type(error).__name__}); make the archive again") from error
    fits = len(found_shape) == 2 and found_shape[1] == shape[1] and shape[0] in (None, found_shape[0])
    if not fits or fortran or dtype != np.dtype("<f4"):
        wanted = f"[{'N' if shape[0] is None else shape[0]}, {shape[1]}]"
        raise UserError(
            f"{where}: holds {dtype} {list(found_shape)}, expected float32 {wanted}; make the archive again"
        )
    body = data[stream.tell() :]
    if len(body) != found_shape[0] * found_shape[1] * 4:
        raise UserError(f"{where}: is truncated or too long ({len(body)} bytes of numbers); make the archive again")
    array = np.frombuffer(body, dtype="<f4").reshape(found_shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{where}: holds NaN or infinite numbers; make the archive again")
    return array


def check_probs(probs: np.ndarray, manifest: Manifest, names: list[str], where: str) -> None:
    """Probabilities must be such, and where they determine the measure its value must be the label's.

    Raises:
        UserError: they are not.
    """
    off = (np.abs(probs.sum(axis=1) - 1) > 1e-3) | (probs.min(axis=1) < -TOLERANCE)
    if (row := first_bad(off)) is not None:
        raise UserError(f"{where}: row {row} ({names[row]!r}) holds no probabilities that sum to 1; annotate again")
    if manifest.uncertainty is None or manifest.u is None or not MEASURES[manifest.uncertainty].from_probs:
        return
    measure = MEASURES[manifest.uncertainty]()
    logits = torch.from_numpy(probs).clamp_min(torch.finfo(torch.float32).tiny).log()
    expected = measure(logits, torch.from_numpy(manifest.classes)).numpy()
    if (row := first_bad((np.abs(expected - manifest.u) > 1e-4).reshape(len(probs), -1).any(axis=1))) is not None:
        found = f"{measure.title} {_numbers(expected[row])}, its label says {_numbers(manifest.u[row])}"
        raise UserError(f"{where}: row {row} ({names[row]!r}): {found}; annotate again")


def _numbers(values: np.ndarray) -> str:
    shown = [f"{value:.6g}" for value in np.atleast_1d(values)]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")
