"""`dataset annotate`: adds a classifier's uncertainty to an archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

MEASURES = ("msp", "entropy", "margin", "true_class", "energy", "mutual_information", "softmax")
METHODS = ("none", "temperature", "vector", "isotonic")


class Numbers(click.ParamType):
    """Numbers separated by commas."""

    name = "NUMBERS"

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """'0,1' -> (0.0, 1.0)."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in self.lengths:
            wanted = " or ".join(map(str, self.lengths))
            self.fail(f"{value!r}: expected {wanted} number(s) separated by commas", param, ctx)
        return numbers


def measure_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What is annotated: the measure and the recalibration; shared with the sources of `dataset`."""
    options = [
        click.option(
            "--uncertainty",
            type=click.Choice(list(MEASURES)),
            help="What to condition on, of the classifier's answer.  [default: the classifier's own, else msp]",
        ),
        click.option(
            "--recalibrate",
            type=click.Choice(list(METHODS)),
            help="Correct its probabilities on held-out samples.  [default: as it comes, else none]",
        ),
        click.option(
            "--holdout",
            type=click.Path(path_type=Path),
            help="Archive for --recalibrate.  [default: what 'train' held out, else a random fifth of the data]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(short_help="Add a classifier's uncertainty to an archive.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Archive with class labels.")
@click.option(
    "--classifier",
    required=True,
    metavar="train|PATH|MODULE:FACTORY",
    help="'train': the built-in small network, trained on nine tenths of this data. PATH: a .pt2 program of "
    "torch.export, a .safetensors file of this project, or an annotated archive, whose classifier is used again. "
    "MODULE:FACTORY: a function that returns a torch module.",
)
@click.option(
    "--classifier-weights",
    metavar="PATH",
    help="Safetensors state dict for MODULE:FACTORY.  [default: the weights that it makes]",
)
@click.option("--classifier-output", type=click.Choice(["logits", "probs"]), help="What it returns.  [default: logits]")
@click.option(
    "--dest", type=click.Path(path_type=Path), help="Where to write.  [default: --data is replaced, in one step]"
)
@click.option(
    "--input-size", type=click.IntRange(1, 4096), help="Side that it wants, in pixels.  [default: the data's]"
)
@click.option("--input-channels", type=click.Choice(["1", "3"]), help="Channels that it wants.  [default: the data's]")
@click.option("--input-range", type=Numbers((2,)), help="Its values of black and white.  [default: 0,1]")
@click.option("--input-mean", type=Numbers((1, 3)), help="Subtracted after that, per channel.  [default: 0]")
@click.option("--input-std", type=Numbers((1, 3)), help="Divided by after that, per channel.  [default: 1]")
@measure_options
@click.option("--device", default="auto", show_default=True, help="Where it runs: auto, cpu, cuda.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of --classifier train and --recalibrate."
)
@click.option("--mirror", is_flag=True, help="Add every image's mirror image, with an uncertainty of its own.")
@click.option("--batch", type=click.IntRange(min=1), default=512, show_default=True, help="Samples per forward.")
def annotate(
    data: Path,
    classifier: str,
    classifier_weights: str | None,
    uncertainty: str | None,
    recalibrate: str | None,
    holdout: Path | None,
    dest: Path | None,
    device: str,
    seed: int,
    mirror: bool,
    batch: int,
    **given: Any,
) -> None:
    """Add a classifier's uncertainty to every label of an archive, and the classifier itself.

    A classifier's output k must be the k-th class of the archive: the classes of `dataset folder` are sorted by name
    (numbers by value) and listed, in order, when the archive is made. Outputs that seem to be in another order, or an
    accuracy about that of chance, give a warning. How to bring a classifier: docs/own-classifier.md.

    The archive then is what `train --cond-msp=1` wants: labels [class one-hot, uncertainty], every class probability,
    the classifier and its sha256. An archive that was annotated before is annotated anew. With --recalibrate, ECE, NLL
    and Brier score before and after are printed and written beside the archive, with a reliability diagram.
    """
    from stylegan2_msp.classifiers.load import Declared
    from stylegan2_msp.data.annotate import annotate_archive

    options = {name.removeprefix("input_"): value for name, value in given.items() if value is not None}
    if "classifier_output" in options:
        options["output"] = options.pop("classifier_output")
    if "channels" in options:
        options["channels"] = int(options["channels"])
    path = annotate_archive(
        data,
        dest,
        classifier,
        seed=seed,
        device=device,
        weights=classifier_weights,
        declared=Declared(**options) if options else None,
        batch=batch,
        mirror=mirror,
        uncertainty=uncertainty,
        recalibration=recalibrate,
        holdout=holdout,
    )
    click.echo(f"{path}: annotated, {path.stat().st_size / 2**20:.1f} MiB" if path.is_file() else f"{path}: annotated")
