"""Networks of the StyleGAN2-ADA family, read from their pickles as data and rebuilt from this package's own classes."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stylegan2_msp.data.archive import open_archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.networks import build_network
from stylegan2_msp.uncertainty import MEASURES
from stylegan2_msp.upstream.loading import DATASET
from stylegan2_msp.upstream.own_pickle import network_of
from stylegan2_msp.upstream.pickle_machine import Refused, shown
from stylegan2_msp.upstream.records import discriminator_kwargs, generator_kwargs, tensors_of
from stylegan2_msp.upstream.unpickle import ModuleRecord, OwnRecord, read_pickle

_KIMG = re.compile(r"network-snapshot-(\d+)")


@dataclass(frozen=True)
class ImportedNetwork:
    """What a pickle of the family became.

    Attributes:
        G: the generator with averaged weights.
        D: the discriminator, where the pickle holds one.
        classifier: the frozen classifier's file, in pickles that this package exported, or from `with_data`.
        info: what a snapshot says of itself.
    """

    G: nn.Module
    D: nn.Module | None
    classifier: bytes | None
    info: dict[str, Any]


def import_network(path: str | Path, uncertainty: str | None = None) -> ImportedNetwork:
    """Reads a network of the family without running anything that the file holds.

    Args:
        path: a pickle with G_ema (and D), as stylegan2-ada-pytorch and stylegan3 (its StyleGAN2 configurations) write.
        uncertainty: the measure that the label's last numbers are; None for labels of classes alone.

    Raises:
        UserError: the file is damaged, holds something else than such a network, or its label has no such numbers.
    """
    path = Path(path)
    content = read_pickle(path)
    try:
        found = content if isinstance(content, dict) else {"G_ema": content}
        if "G_ema" not in found:
            raise Refused("it holds no G_ema, the generator with averaged weights")
        told = uncertainty or _told_by_data(found.get("training_set_kwargs"))
        G = _network(found["G_ema"], "Generator", by_label=told is not None)
        D = _network(found["D"], "Discriminator") if found.get("D") is not None else None
    except Refused as error:
        raise UserError(f"{path}: {error}; nothing of it was run") from error
    own = found.get("stylegan2_msp")
    info = _info_of_own(path, own) if own is not None else _info(path, G, told)
    asks = info.get("condition", "class+msp") == "class+msp"
    holds = info.get("uncertainty") or "msp" if asks else "no uncertainty"
    if uncertainty not in (None, holds):
        raise UserError(f"--uncertainty {uncertainty}: {path} says that its label holds {holds}; leave it out")
    classifier = own.get("classifier") if isinstance(own, dict) else None
    return ImportedNetwork(G, D, classifier if isinstance(classifier, bytes) else None, info)


def with_data(found: ImportedNetwork, data: str | Path) -> ImportedNetwork:
    """The network with the classifier and the class names of the archive that it was trained on.

    Raises:
        UserError: the archive holds no classifier, or has other classes, images or another measure.
    """
    archive = open_archive(data)
    if archive.classifier_bytes is None:
        raise UserError(f"--data {data}: holds no classifier; annotate it, or leave it out")
    kwargs: Any = found.G.init_kwargs
    as_long = archive.annotated and kwargs["c_dim"] == archive.labels().shape[1]
    if found.info.get("condition") == "class" and as_long:
        raise UserError(
            f"--data {data}: its labels, as long as the network's, are classes and {archive.uncertainty}; "
            f"add --uncertainty {archive.uncertainty}"
        )
    measure = found.info.get("uncertainty") or archive.uncertainty
    mine = (found.info["num_classes"], kwargs["img_channels"], kwargs["img_resolution"], measure)
    theirs = (archive.num_classes, archive.img_channels, archive.img_resolution, archive.uncertainty)
    if mine != theirs:
        raise UserError(
            f"--data {data}: classes, channels, size and measure are {theirs}, the network's {mine}; "
            "give the archive that it was trained on"
        )
    info = {**found.info, "class_names": archive.class_names}
    return replace(found, classifier=archive.classifier_bytes, info=info)


def _told_by_data(trained_on: Any) -> str | None:
    """The measure in the label of a network that a patched checkout trained."""
    if not isinstance(trained_on, dict) or trained_on.get("class_name") != DATASET:
        return None
    name = trained_on.get("uncertainty", "msp")
    return name if isinstance(name, str) and name in MEASURES else None


def _network(record: Any, wanted: str, by_label: bool = False) -> nn.Module:
    """The network; with ``by_label`` one of the family's truncates towards the mean of its label."""
    if isinstance(record, OwnRecord):
        name, kwargs, tensors = network_of(record)
    elif isinstance(record, ModuleRecord):
        name, tensors = record.class_name, tensors_of(record)
        kwargs = (generator_kwargs if wanted == "Generator" else discriminator_kwargs)(record, tensors)
        if by_label:
            kwargs["mapping_kwargs"]["truncation"] = "conditional"
    else:
        raise Refused(f"where a {wanted} should be it holds something else")
    if name != wanted:
        raise Refused(f"where a {wanted} should be it holds a {shown(name)}")
    return rebuilt(wanted, kwargs, tensors)


def rebuilt(name: str, kwargs: dict[str, Any], tensors: dict[str, torch.Tensor]) -> nn.Module:
    """The network `name`, made with `kwargs`, that holds `tensors`.

    Takes no memory before names and shapes are known to agree.

    Raises:
        Refused: they do not agree.
    """
    try:
        with torch.device("meta"):
            network = build_network(name, kwargs)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise Refused(f"its {name} cannot be built here ({shown(first)})") from error
    expected = network.state_dict()
    for key in sorted(expected.keys() | tensors.keys()):
        mine = list(expected[key].shape) if key in expected else "nothing"
        theirs = list(tensors[key].shape) if key in tensors else "nothing"
        if mine != theirs:
            raise Refused(f"its {name} is no StyleGAN2: {shown(key)} is {theirs}, expected {mine}")
    state = {key: value.to(torch.float32).contiguous().clone() for key, value in tensors.items()}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def _info(path: Path, G: nn.Module, uncertainty: str | None) -> dict[str, Any]:
    c_dim = int(G.init_kwargs["c_dim"])  # type: ignore[index]
    num_classes = c_dim
    if uncertainty is not None:
        size_is_classes = MEASURES[uncertainty]().size(2) > 1
        num_classes = c_dim // 2 if size_is_classes else c_dim - 1
        if num_classes < 2 or (size_is_classes and c_dim % 2):
            raise UserError(
                f"--uncertainty {uncertainty}: a label of {c_dim} numbers has no place for it; leave it out"
            )
    named = _KIMG.search(path.name)
    return {
        "kind": "images",
        "num_classes": num_classes,
        "class_names": None,
        "condition": "none" if not c_dim else "class" if uncertainty is None else "class+msp",
        "uncertainty": uncertainty,
        "kimg": float(named.group(1)) if named else 0.0,
        "imported": {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "torch": torch.__version__,
    }


def _info_of_own(path: Path, own: Any) -> dict[str, Any]:
    try:
        info = json.loads(own["info"])
        if not isinstance(info, dict):
            raise TypeError
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: what it says of itself cannot be read; export it again") from error
    return info
