"""`evaluate`: how well a snapshot does what it is asked, and how good what it makes is."""

from __future__ import annotations

import click

from stylegan2_msp.cli import finite


@click.command()
@click.option("--network", metavar="PATH", help="Snapshot or folder.  [default: the newest under training-runs]")
@click.option("--data", metavar="X.zip", required=True, help="The archive that the network was trained on.")
@click.option("--outdir", metavar="DIR", default="evaluation", show_default=True, help="Where to write.")
@click.option(
    "--images", type=click.IntRange(min=80), default=10_000, show_default=True, help="Items of each of 3 distributions."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of every random number.")
@click.option(
    "--features",
    type=click.Choice(["second", "inception", "none"]),
    default="second",
    show_default=True,
    help="Of which FID and the like are measured: the second classifier's, Inception's, or not at all.",
)
@click.option("--baseline", metavar="PATH", help="Class-only snapshot of the same data, for rejection sampling.")
@click.option(
    "--within",
    type=click.FloatRange(min=0),
    callback=finite,
    metavar="DISTANCE",
    help="Measure fakes whose level was searched, as by generate --within.  [default: the network as it was trained; "
    "0.05 with --draws]",
)
@click.option(
    "--draws",
    type=click.IntRange(min=1),
    metavar="N",
    help="Measure fakes for each of which up to N latents were drawn, as by generate --draws.",
)
@click.option("--steady", is_flag=True, help="With --draws: of fakes whose level holds under small shifts, too.")
@click.option(
    "--trunc",
    "psi",
    type=float,
    default=1.0,
    show_default=True,
    callback=finite,
    help="Truncation psi of the fakes, as of generate --trunc.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--batch", type=click.IntRange(min=1), default=128, show_default=True, help="Items per pass.")
def evaluate(
    network: str | None,
    data: str,
    outdir: str,
    images: int,
    seed: int,
    features: str,
    baseline: str | None,
    within: float | None,
    draws: int | None,
    steady: bool,
    psi: float,
    device: str,
    batch: int,
) -> None:
    """Measure a network: match of the condition, quality, corruption kinds, and baselines.

    Trains a second classifier (and a probe of corruption kinds) on the data the first time and keeps them beside it.
    Writes results.json, results.csv, results.md and figures; prints results.md.
    """
    from stylegan2_msp.generation import find_snapshot
    from stylegan2_msp.report.run import evaluate_network

    path = find_snapshot(network)
    click.echo(f"network {path}")
    done = evaluate_network(
        path,
        data,
        outdir,
        images,
        seed,
        device,
        batch,
        features,
        baseline,
        within=within,
        draws=draws,
        steady=steady,
        truncation_psi=psi,
    )
    for note in done.notes:
        click.echo(note, err=True)
    click.echo(next(file for file in done.files if file.name == "results.md").read_text(encoding="utf-8"))
    click.echo("\n".join(str(file) for file in done.files))
