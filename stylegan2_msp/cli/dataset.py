"""`dataset`: make archives of points and images, corrupted and annotated as asked."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stylegan2_msp.cli import finite
from stylegan2_msp.cli.annotate import annotate, measure_options

if TYPE_CHECKING:
    from stylegan2_msp.data.samples import Samples

SIDES = [str(2**k) for k in range(2, 11)]


@click.group()
def dataset() -> None:
    """Make archives: points, digits, MNIST or any folder of images, and a classifier's uncertainty of them."""


def source_options(classifier: str | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that every source has; ``classifier`` is the default for the training split."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        shown = f"{classifier or 'none'}; none for a test split"
        options: list[Callable[..., Any]] = [
            click.option("--dest", type=click.Path(path_type=Path), required=True, help="A .zip or a new folder."),
            click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all randomness."),
            click.option(
                "--classifier",
                metavar="train|none|PATH",
                help="Adds its uncertainty: 'train' a small network, take another archive's, or bring one (see "
                f"annotate).  [default: {shown}]",
            ),
            measure_options,
            click.option("--device", default="auto", show_default=True, help="Where the classifier runs: cpu, cuda."),
        ]
        for option in reversed(options):
            command = option(command)

        @functools.wraps(command)
        def with_default(**given: Any) -> None:
            is_test = given.get("split") == "test"
            if is_test and given["classifier"] == "train":
                raise click.UsageError(
                    "--classifier train with --split test would train on test data; bring the training split's"
                )
            given["classifier"] = given["classifier"] or ("none" if is_test else classifier) or "none"
            for option in ("uncertainty", "recalibrate", "holdout"):
                if given[option] is not None and given["classifier"] == "none":
                    raise click.UsageError(f"--{option}: wants a classifier; give --classifier")
            command(**given)

        return with_default

    return decorate


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every source of images has."""
    command = click.option(
        "--corrupt", type=click.Choice(["gaussian"]), help="Blur or add noise to a random half of the images."
    )(command)
    command = click.option(
        "--corrupt-table",
        type=click.Choice(["imagenet-c", "cifar-c"]),
        help="What severities 1 to 5 of --corrupt mean.  [default: imagenet-c]",
    )(command)
    return click.option("--max-images", type=click.IntRange(min=1), help="Keep this many at random.  [default: all]")(
        command
    )


@dataset.command()
@source_options("train")
@click.option("--num", type=click.IntRange(min=10), default=20_000, show_default=True, help="Number of points.")
@click.option(
    "--noise", type=click.FloatRange(min=0), default=0.3, show_default=True, callback=finite, help="Standard deviation."
)
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True, help="Another draw.")
def moons(num: int, noise: float, split: str, seed: int, **rest: Any) -> None:
    """Two interleaved half circles: 2-D points in two classes."""
    from stylegan2_msp.data.sources.toy import moons as make

    build(lambda: make(num, noise, seed, split), seed=seed, **rest)


@dataset.command(short_help="Scikit-learn's handwritten digits; no download.")
@source_options("train")
@image_options
@click.option("--split", type=click.Choice(["train", "test", "all"]), default="train", show_default=True)
def digits(split: str, max_images: int | None, seed: int, **rest: Any) -> None:
    """Scikit-learn's 1,797 handwritten digits, 8x8 brought to 16x16; no download."""
    from stylegan2_msp.data.sources.toy import digits as make

    build(lambda: make(split, max_images, seed), seed=seed, **rest)


@dataset.command(short_help="MNIST, from a folder of idx files or downloaded.")
@source_options("train")
@image_options
@click.option("--source", type=click.Path(path_type=Path), help="Folder with the idx files.  [default: download them]")
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
def mnist(source: Path | None, split: str, max_images: int | None, seed: int, **rest: Any) -> None:
    """MNIST, 28x28 padded to 32x32, from a folder of idx files or downloaded."""
    from stylegan2_msp.data.sources.download import download_mnist
    from stylegan2_msp.data.sources.mnist import mnist as make

    build(lambda: make(source or download_mnist(split), split, max_images, seed), seed=seed, **rest)


@dataset.command(short_help="Any images, from a folder or a zip.")
@source_options(None)
@image_options
@click.option("--source", type=click.Path(path_type=Path), required=True, help="Folder or zip of images.")
@click.option(
    "--labels", type=click.Path(path_type=Path), help="CSV file,class.  [default: dataset.json or sub-folders]"
)
@click.option("--resolution", type=click.Choice(SIDES), help="Sides in pixels.  [default: as fits the first image]")
@click.option("--split", type=click.Choice(["train", "test", "all"]), default="all", show_default=True)
def folder(
    source: Path,
    labels: Path | None,
    resolution: str | None,
    split: str,
    max_images: int | None,
    seed: int,
    **rest: Any,
) -> None:
    """Any images: one sub-folder per class, a dataset.json or a CSV; cropped square and resized."""
    from stylegan2_msp.data.sources.folder import folder as make

    size = int(resolution) if resolution else None
    build(lambda: make(source, size, labels, split, max_images, seed), seed=seed, **rest)


def build(
    make: Callable[[], Samples],
    dest: Path,
    seed: int,
    classifier: str,
    device: str,
    uncertainty: str | None = None,
    recalibrate: str | None = None,
    holdout: Path | None = None,
    corrupt: str | None = None,
    corrupt_table: str | None = None,
) -> None:
    """Makes samples, corrupts and annotates them as asked, writes the archive once and sums up."""
    from stylegan2_msp.data.archive_writer import check_destination, write_archive
    from stylegan2_msp.data.corruptions import corrupt_gaussian

    start = time.monotonic()
    if corrupt_table is not None and corrupt is None:
        raise click.UsageError("--corrupt-table: says how strongly --corrupt changes images; add --corrupt gaussian")
    check_destination(dest)
    samples = make()
    if corrupt:
        samples = corrupt_gaussian(samples, corrupt_table or "imagenet-c", seed)
    if classifier != "none":
        from stylegan2_msp.data.annotate import annotate_samples

        samples = annotate_samples(
            samples,
            classifier,
            seed=seed,
            device=device,
            uncertainty=uncertainty,
            recalibration=recalibrate,
            holdout=holdout,
            beside=dest,
        )
    write_archive(dest, samples)
    for line in summary(dest, samples, time.monotonic() - start):
        click.echo(line)


def summary(dest: Path, samples: Samples, seconds: float) -> list[str]:
    """What was written, in a few lines."""
    size = (
        f"{samples.img_resolution}x{samples.img_resolution}x{samples.img_channels}" if samples.img_channels else "2-D"
    )
    packed = f", {dest.stat().st_size / 2**20:.1f} MiB" if dest.is_file() else ""
    split = f", {samples.split} split" if samples.split else ""
    lines = [f"{dest}: {len(samples)} {samples.kind}, {size}{split}{packed}, {seconds:.1f} s"]
    if samples.classes is not None:
        names = samples.class_names or [str(index) for index in range(samples.num_classes)]
        counts = [f"{names[k]}: {n}" for k, n in sorted(Counter(samples.classes.tolist()).items())]
        more = f", and {len(counts) - 12} more" if len(counts) > 12 else ""
        noun = "class" if samples.num_classes == 1 else "classes"
        lines.append(f"  {samples.num_classes} {noun} ({', '.join(counts[:12])}{more})")
    if samples.corruption is not None:
        shares = Counter(samples.corruption.kind)
        text = ", ".join(f"{kind} {100 * shares[kind] / len(samples):.1f} %" for kind in ("none", "blur", "noise"))
        lines.append(f"  corruption by {samples.corruption.table}: {text}")
    if samples.annotation is None:
        lines.append(f"  no uncertainty yet: dataset_tool.py annotate --data {dest} --classifier ...")
    return lines


dataset.add_command(annotate)
