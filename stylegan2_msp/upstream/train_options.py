"""The condition's options in the checkout's train.py: the same as those of our own `train`, and what they change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import click
import torch

from stylegan2_msp.classifiers import FrozenClassifier
from stylegan2_msp.cli.train import train
from stylegan2_msp.data.archive import Archive, open_archive
from stylegan2_msp.errors import UserError
from stylegan2_msp.options import check_choices, condition_terms
from stylegan2_msp.training.labels import silverman
from stylegan2_msp.upstream.loading import DATASET

_ADAPTER, _LOSS = "stylegan2_msp.upstream.adapter", "stylegan2_msp.upstream.loss.MspLoss"
_LOSS_OPTIONS = (
    "consistency",
    "consistency_kimg",
    "consistency_ramp",
    "consistency_uniform",
    "consistency_share",
    "consistency_class",
    "consistency_augment",
    "consistency_witness",
    "label_noise",
    "vicinal",
    "sharpness",
    "diversity",
)
OPTIONS = ("cond_msp", "classifier", "classifier_weights", "embedding", *_LOSS_OPTIONS, "flatten")
Command = Callable[..., Any]


def condition_options(command: Command) -> Command:
    """Adds the options of our `train` that work in the checkout's loop."""
    ours = {param.name: param for param in train.params}
    here = ours["cond_msp"] = copy.copy(ours["cond_msp"])
    here.help = "Condition on [class, MSP]; the options after this one go with it.  [default: off]"
    command.__dict__.setdefault("__click_params__", []).extend(ours[name] for name in reversed(OPTIONS))
    return command


class Condition:
    """The condition's options, taken out of those of the checkout's train.py.

    Args:
        options: all options by name; ours are removed from it.

    Raises:
        click.UsageError: an option of ours without --cond-msp=1, or out of range.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.given = {name: options.pop(name, None) for name in OPTIONS}
        self.wanted = bool(self.given["cond_msp"])
        for name, value in self.given.items():
            if value is not None and not self.wanted and name != "cond_msp":
                raise click.UsageError(f"--{name.replace('_', '-')}: needs --cond-msp=1; add it or leave this out")
        with _usage_errors():
            check_choices(self.given)

    def applied(self, desc: str, args: Any) -> tuple[str, Any]:
        """Name of the run and arguments of the training loop, both with the condition; as they were without it.

        Raises:
            click.UsageError: the data cannot be trained on so.
        """
        if not self.wanted:
            return desc, args
        with _usage_errors():
            archive = self._archive(args)
            size = _size(archive)
            terms = condition_terms(self.given, True, "images", size)
            terms = _without_classifier(archive, terms, self.given)
        noise = terms["label_noise"]
        if noise == "auto":
            noise = float(silverman(torch.from_numpy(archive.labels()[:, archive.num_classes :])).mean())
        data = args.training_set_kwargs
        data.update(class_name=DATASET, path=str(archive.path), use_labels=True)
        data.update(flatten=terms["flatten"], uncertainty=archive.uncertainty or "msp")
        data.update(vicinal=terms["vicinal"], label_noise=noise)
        embedding = {"embedding": self.given["embedding"] or "split", **({"u_dim": size} if size > 1 else {})}
        for kwargs, name in ((args.G_kwargs, "ReferenceGenerator"), (args.D_kwargs, "ReferenceDiscriminator")):
            kwargs.class_name = f"{_ADAPTER}.{name}"
            kwargs.mapping_kwargs.update(embedding)
        args.D_kwargs.sharpness = terms["sharpness"]
        args.loss_kwargs.update({name: terms[name] for name in _LOSS_OPTIONS} | {"label_noise": noise})
        args.loss_kwargs.update(class_name=_LOSS, archive=str(archive.path), num_classes=archive.num_classes)
        args.loss_kwargs.seed = args.random_seed
        return f"{desc}-msp", args

    def _archive(self, args: Any) -> Archive:
        """The annotated archive; annotated into a copy beside it if it has classes alone and a classifier is given."""
        if args.training_set_kwargs.xflip:
            raise UserError("--mirror: a flipped image would keep the unflipped one's MSP; leave it out")
        archive = open_archive(args.training_set_kwargs.path)
        if not archive.annotated and self.given["classifier"] is not None:
            from stylegan2_msp.data.annotate import annotate_cached

            weights = self.given["classifier_weights"]
            seed = args.random_seed
            archive = open_archive(annotate_cached(archive.path, self.given["classifier"], weights=weights, seed=seed))
        if not archive.annotated:
            raise UserError(f"--data {archive.path}: has no MSP; annotate it, or add --classifier train")
        return archive


def _size(archive: Archive) -> int:
    return 1 if archive.u is None or archive.u.ndim == 1 else archive.u.shape[1]


def _without_classifier(archive: Archive, terms: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The terms; without a classifier in the archive those that would ask it are off, or refused if they were given.

    Raises:
        UserError: also if the classifier is for other images.
    """
    if archive.classifier_bytes is not None:
        found = FrozenClassifier.from_bytes(archive.classifier_bytes, str(archive.path))
        mine = (found.num_classes, found.img_channels, found.img_resolution, found.measure.name)
        data = (archive.num_classes, archive.img_channels, archive.img_resolution, archive.uncertainty or "msp")
        if mine != data:
            raise UserError(
                f"--data {archive.path}: its classifier (classes, channels, size, measure: {mine}) is "
                f"not for its images {data}; annotate again"
            )
        if archive.probs is not None:
            return terms
        counting = ("consistency_class", "consistency_witness")
        for name in counting:
            if given[name]:
                option = name.replace("_", "-")
                raise UserError(f"--{option}: {archive.path} holds no probabilities; annotate it, or leave it out")
        return terms | dict.fromkeys(counting, 0.0)
    asking = ("consistency", "consistency_uniform", "consistency_class", "consistency_witness")
    for name in asking:
        if given[name]:
            raise UserError(f"--{name.replace('_', '-')}: {archive.path} holds no classifier; annotate it with one")
    print(f"{archive.path} holds no classifier: no consistency term.", flush=True)
    return terms | dict.fromkeys(asking, 0.0)


class _usage_errors:
    """`UserError` as click's usage error: one line, exit code 2, as the checkout's own."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError):
            raise click.UsageError(str(error)) from None
