"""`report`: figures and tables of a finished run."""

from __future__ import annotations

import click


@click.command()
@click.option("--run", "run_folder", metavar="DIR", help="Run folder or snapshot.  [default: newest in training-runs]")
@click.option("--data", metavar="X.zip", help="Archive with the natural labels.  [default: the run's own]")
@click.option("--outdir", metavar="DIR", default="report", show_default=True, help="Where to write.")
@click.option("--count", type=click.IntRange(min=2), default=2000, show_default=True, help="Items per distribution.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every random number.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--batch", type=click.IntRange(min=1), default=128, show_default=True, help="Items per pass.")
def report(
    run_folder: str | None, data: str | None, outdir: str, count: int, seed: int, device: str, batch: int
) -> None:
    """A quick look at a run: its pictures, its training curves, and how MSP in and MSP out agree.

    Writes the figures, results.json, results.csv and results.md; `evaluate` measures the rest.
    """
    from stylegan2_msp.generation import find_snapshot
    from stylegan2_msp.report.run import report_run

    path = find_snapshot(run_folder)
    click.echo(f"network {path}")
    done = report_run(path, outdir, data, count, seed, device, batch)
    for note in done.notes:
        click.echo(note, err=True)
    click.echo("\n".join(str(file) for file in done.files))
