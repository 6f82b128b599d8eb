"""`reproduce`: an experiment from nothing to figures and tables."""

from __future__ import annotations

import time
from pathlib import Path

import click

from stylegan2_msp.presets import PRESETS
from stylegan2_msp.study.experiments import EXPERIMENTS


@click.command()
@click.argument("name", type=click.Choice(list(EXPERIMENTS)))
@click.option("--outdir", type=click.Path(path_type=Path), help="Folder of the study.  [default: study/NAME]")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds 0, 1, ... of each variant."
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Factor on the length of each training: 0.1 for a look, more on a GPU.",
)
@click.option(
    "--images",
    type=click.IntRange(min=80),
    help="Items of each distribution that are measured.  [default: 10000; digits 3000]",
)
@click.option("--source", help="Folder of the images (MNIST's idx files, photographs); MNIST is downloaded without.")
@click.option("--variant", "variants", multiple=True, help="Only this row; repeatable.  [default: all]")
@click.option(
    "--cfg",
    type=click.Choice(list(PRESETS)),
    help="Preset of the networks; tiny is that of the documented figures.  [default: auto; tiny on CPUs]",
)
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True, help="Processes of each training.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: cuda if there is one]")
def reproduce(
    name: str,
    outdir: Path | None,
    seeds: int,
    scale: float,
    images: int | None,
    source: str | None,
    variants: tuple[str, ...],
    cfg: str | None,
    gpus: int,
    device: str | None,
) -> None:
    """Make the data, train every variant with every seed, measure them, and compare.

    The same command goes on where it was cut off. Writes study.md, study.json,
    calibration.png and comparison.png.
    """
    from stylegan2_msp.study.run import Study, choose
    from stylegan2_msp.study.summary import summarise

    start = time.monotonic()
    experiment = choose(EXPERIMENTS[name], variants)
    folder = outdir or Path("study") / name
    study = Study(experiment, folder, tuple(range(seeds)), scale, source, device, gpus, images, cfg)
    with study.alone():
        try:
            study.run()
        finally:
            files = summarise(study, time.monotonic() - start)
    click.echo(files[0].read_text(encoding="utf-8"))
    click.echo("\n".join(str(file) for file in files))
