"""Network snapshots: G_ema, the classifier it explains and all that rebuilds them, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.classifiers.frozen import sorted_header
from stylegan2_msp.errors import UserError
from stylegan2_msp.files import replacing
from stylegan2_msp.networks import build_network

FORMAT = "stylegan2-msp snapshot"
VERSION = "1"
_G_PREFIX = "G_ema."
_D_PREFIX = "D."
_CLASSIFIER_KEY = "classifier_file"


@dataclass(frozen=True)
class Snapshot:
    """A trained generator with its classifier.

    Attributes:
        G: the generator (exponential moving average of the weights), in eval mode.
        classifier: the frozen classifier that gave the MSP, or None.
        info: num_classes, class_names, uncertainty, kind ('images' or 'points'), kimg, options, data.
        path: where it was read.
    """

    G: torch.nn.Module
    classifier: FrozenClassifier | None
    info: dict[str, Any]
    path: Path


def save_snapshot(
    path: str | Path,
    G: torch.nn.Module,
    classifier_bytes: bytes | None,
    info: dict[str, Any],
    D: torch.nn.Module | None = None,
) -> None:
    """Writes a snapshot; an existing file is replaced only when the new one is complete. Equal content, equal bytes.

    Args:
        path: the file, by habit network-snapshot-NNNNNN.safetensors.
        G: generator with ``init_kwargs``.
        classifier_bytes: the classifier's own file, `FrozenClassifier.to_bytes`.
        info: plain JSON data that travels along.
        D: the discriminator, in snapshots that training is meant to start from (`import` writes such).

    Raises:
        UserError: it cannot be written.
    """
    networks = {_G_PREFIX: G} if D is None else {_G_PREFIX: G, _D_PREFIX: D}
    tensors = {
        prefix + name: value.detach().cpu().contiguous()
        for prefix, network in networks.items()
        for name, value in network.state_dict().items()
    }
    if classifier_bytes is not None:
        tensors[_CLASSIFIER_KEY] = torch.frombuffer(bytearray(classifier_bytes), dtype=torch.uint8)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "network": type(G).__name__,
        "init_kwargs": json.dumps(G.init_kwargs),
        "info": json.dumps(info),
    }
    if D is not None:
        header["D_init_kwargs"] = json.dumps(D.init_kwargs)
    with replacing(path) as temporary:
        temporary.write_bytes(sorted_header(save(tensors, header)))


@torch.inference_mode(False)  # or the networks could never pass a gradient on
def load_snapshot(path: str | Path, device: torch.device | str = "cpu") -> Snapshot:
    """Reads a snapshot without running anything that the file might hold; the caller's random state stays as it is.

    Raises:
        UserError: the file is missing, truncated, of another format (a pickle, say) or does not fit its own header.
    """
    path = Path(path)
    header, tensors = _read(path)
    with _naming(path), torch.random.fork_rng(devices=[]):  # initial weights are drawn, and replaced
        G = build_network(header["network"], json.loads(header["init_kwargs"])).float()  # whatever the default dtype
        info = json.loads(header["info"])
        G.load_state_dict(_under(_G_PREFIX, tensors))
    G.eval().requires_grad_(False).to(device)
    classifier = None
    if _CLASSIFIER_KEY in tensors:
        classifier = FrozenClassifier.from_bytes(tensors[_CLASSIFIER_KEY].numpy().tobytes()).to(device)
    return Snapshot(G, classifier, info, path)


def load_discriminator(path: str | Path) -> torch.nn.Module | None:
    """The discriminator in a snapshot, in eval mode; None where it holds none, as those of finished training do."""
    path = Path(path)
    header, tensors = _read(path)
    if "D_init_kwargs" not in header:
        return None
    with _naming(path), torch.random.fork_rng(devices=[]):
        D = build_network("Discriminator", json.loads(header["D_init_kwargs"])).float()
        D.load_state_dict(_under(_D_PREFIX, tensors))
    return D.eval().requires_grad_(False)


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a network is rebuilt into one line that names the file."""
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{path}: the snapshot does not fit its header ({_first_line(error)}); train or copy it again"
        ) from error


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise UserError(f"{path}: no such snapshot; name a network-snapshot-*.safetensors file, or a folder of them")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise UserError(
                    f"{path}: is not a {FORMAT} (format {header.get('format', 'missing')!r}); give --network one"
                )
            if header.get("version") != VERSION:
                raise UserError(
                    f"{path}: has format version {header.get('version')!r}, this program reads {VERSION!r}; update it"
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        with open(path, "rb") as file:
            start = file.read(4)  # of what is no safetensors file: those begin with any byte
        if start == b"PK\x03\x04":
            raise UserError(
                f"{path}: is a zip, so data or a pickle; give a network-snapshot-*.safetensors (pickles are never "
                "loaded, see `stylegan2-msp import`)"
            ) from error
        if start[:1] == b"\x80":
            raise UserError(
                f"{path}: is a pickle, which can run code and is never loaded; see `stylegan2-msp import`"
            ) from error
        raise UserError(f"{path}: cannot be read as safetensors ({_first_line(error)}); it may be truncated") from error


def newest_snapshot(folder: str | Path) -> Path:
    """The last network-snapshot-*.safetensors of the newest run below a folder.

    In a run the number in the name decides: the times of a copied folder are those of the copy.

    Raises:
        UserError: there is none.
    """
    last: dict[Path, Path] = {}
    for path in sorted(Path(folder).glob("**/network-snapshot-*.safetensors")):
        last[path.parent] = path
    if not last:
        raise UserError(f"{folder}: holds no network-snapshot-*.safetensors; train first, or name such a file")
    return max(last.values(), key=lambda path: (path.stat().st_mtime_ns, path))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
