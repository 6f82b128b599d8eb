"""Files that people bring in place of a classifier's: what each is, told without unpickling, and the way out."""

from __future__ import annotations

import io
import zipfile

from stylegan2_msp.errors import UserError

STATE_DICT = "a state dict (safetensors) without its network"
SAVE_PROGRAM = "torch.export.save(torch.export.export(model.eval(), (images,)), 'classifier.pt2')"
SAVE_WEIGHTS = "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


def kind_of_file(data: bytes) -> str | None:
    """What a file is, by its first bytes and its members' names; None where it is none of those known here.

    Nothing in it is unpickled or run.
    """
    if data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05":
        return "a pickle, which may hold any code and is not opened"
    if data[:1] == b"\x08" and data[2:3] == b"\x12":  # fields 1 and 2 of its protobuf: version and producer
        return "an ONNX model"
    size = int.from_bytes(data[:8], "little")
    if 2 <= size <= len(data) - 8 and data[8:9] == b"{":
        return None if b"stylegan2-msp" in data[8 : 8 + size] else STATE_DICT
    members = _members(data)
    if "data.pkl" not in members:
        return None
    if "constants.pkl" in members:
        return "a TorchScript program"
    return "a pickle of torch.save (a model or a state dict), which may hold any code and is not opened"


def refuse_foreign(data: bytes, source: str) -> None:
    """Raises `UserError` where ``data`` is a known kind of file other than a classifier's; it says what to do."""
    kind = kind_of_file(data)
    if kind is None:
        return
    weights = source if kind == STATE_DICT else f"weights.safetensors of {SAVE_WEIGHTS}"
    raise UserError(
        f"{source}: is {kind}; give --classifier package.module:factory --classifier-weights {weights}, "
        f"or a program: {SAVE_PROGRAM} (docs/own-classifier.md)"
    )


def _members(data: bytes) -> set[str]:
    """Names in a zip without its root folder; none where it is no zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        return set()
