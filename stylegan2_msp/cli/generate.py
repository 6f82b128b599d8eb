"""`generate`: pictures at a chosen class, uncertainty and seed from a trained snapshot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stylegan2_msp.cli import finite
from stylegan2_msp.cli.lists import parse_classes, parse_levels, parse_seeds

if TYPE_CHECKING:
    from stylegan2_msp.generation import Within

_NEAR = 0.05  # of a level: where no real item is as near, nothing was learned of it
_LISTED = 8
_ON, _OFF = ("on", "true", "yes", "1"), ("off", "false", "no", "none", "0")


def _distance(_context: click.Context, _option: click.Parameter, text: str | None) -> Within:
    """Callback of --within: 'auto' if it is left out, None for 'off'."""
    if text is None:
        return "auto"
    if text.lower() == "off":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise click.BadParameter(f"{text}: must be off or a finite number of at least 0")
    return value


@click.command()
@click.option(
    "--msp", "msp_text", metavar="LEVELS", help="MSP asked for: 0.7, 1.0,0.7 or 0.3:1.0:8.  [default: 1.0,0.7]"
)
@click.option(
    "--uncertainty",
    "level_text",
    metavar="LEVELS",
    help="The same for a snapshot of any measure, MSP too: 0.4, 0,0.3 or 0:0.7:8.  [default: certain, then 0.3 less]",
)
@click.option("--seeds", "seeds_text", metavar="SEEDS", default="0-15", show_default=True, help="0-15 or 1,3,5-7.")
@click.option(
    "--class",
    "class_text",
    metavar="CLASSES",
    help="3, cat,dog or 0-9; a number is the class's place, counted from 0, also where the names are numbers.  "
    "[default: seed modulo their number]",
)
@click.option(
    "--within",
    callback=_distance,
    metavar="DISTANCE|off",
    help="Search each image's level until the classifier answers within this of the level asked for; off: the network "
    "is given that level.  [default: 0.03; 0.05 with --draws]",
)
@click.option(
    "--draws",
    type=click.IntRange(min=1),
    metavar="N",
    help="Draw up to N latents for each image in place of searching its level: 40.  [default: the level]",
)
@click.option(
    "--steady",
    is_flag=True,
    help="With --draws: look for images whose level holds when they are shifted a little (1/32 of their side), too.",
)
@click.option("--trunc", "psi", type=float, default=1.0, show_default=True, callback=finite, help="Truncation psi.")
@click.option("--noise-mode", type=click.Choice(["const", "random", "none"]), default="const", show_default=True)
@click.option("--network", metavar="PATH", help="Snapshot or folder.  [default: the newest under training-runs]")
@click.option("--outdir", metavar="DIR", default="out", show_default=True, help="Where to write.")
@click.option("--grid", metavar="PATH|on|off", default="on", show_default=True, help="The labelled grid.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, help="Images per pass.")
def generate(
    msp_text: str | None,
    level_text: str | None,
    seeds_text: str,
    class_text: str | None,
    within: Within,
    draws: int | None,
    steady: bool,
    psi: float,
    noise_mode: str,
    network: str | None,
    outdir: str,
    grid: str,
    device: str,
    batch: int,
) -> None:
    """Generate images at a chosen MSP (or other uncertainty), and see what the classifier says of them.

    Writes one PNG per image, grid.png (rows: levels, columns: seeds, above each image the classifier's answer) and
    generated.csv. The same seed gives the same latent code whatever else is asked.
    """
    seeds = parse_seeds(seeds_text)
    if msp_text is not None and level_text is not None:
        raise click.UsageError("--msp and --uncertainty are two names of one option; give one of them")
    levels = parse_levels(msp_text, "--msp") if msp_text is not None else None
    levels = parse_levels(level_text) if level_text is not None else levels

    from stylegan2_msp.generation import ConditionalGenerator, find_snapshot, load_generator
    from stylegan2_msp.report.generated import make_plan, write_generated

    grid_path = _grid_path(grid, outdir)
    path = find_snapshot(network)
    generator: ConditionalGenerator = load_generator(path, device)
    if msp_text is not None:
        generator.check_called_msp()
    classes = None if class_text is None else parse_classes(class_text, generator.class_names)
    search = generator.search(within, draws, steady)
    plan = make_plan(generator, seeds, classes, levels)
    click.echo(f"network {path}")
    if generator.classifier is None:
        click.echo(f"{path}: holds no classifier; the classifier's columns stay empty", err=True)
    done = write_generated(generator, plan, outdir, grid_path, psi, noise_mode, batch, search)
    shown = f", {done.grid}" if done.grid else ""
    click.echo(f"{done.count} {generator.kind} in {outdir}: {done.table}{shown}")
    older = len(list(Path(outdir).glob("*seed[0-9]*.png"))) - done.count if generator.kind == "images" else 0
    if older > 0:
        click.echo(f"{outdir} also holds {older} images of earlier calls, which {done.table.name} does not list")
    if done.off is not None:
        how = ""
        if search is not None:
            how = f" ({'levels searched' if draws is None else 'latents drawn'} until within {search.within:g})"
        elif done.off > _NEAR and generator.measure.size(generator.num_classes) == 1:
            how = " (without '--within off' they come nearer)"
        click.echo(f"the classifier's answers are {done.off:.3f} from the levels asked for, on average{how}")
    unseen = [f"{u:g}" for u in plan.levels if isinstance(u, float) and not generator.has_seen(u, _NEAR)]
    if unseen:
        listed = ", ".join(unseen[:_LISTED]) + (", ..." if len(unseen) > _LISTED else "")
        title = generator.measure.title
        click.echo(f"none of the data lie within {_NEAR:g} of {title} {listed}: what is made for it is guessed")
    if done.missed:
        more = f"more than {draws} --draws" if draws else "--draws 40, which takes other latents,"
        click.echo(
            f"{done.missed} of {done.count} {generator.kind} are not what was searched for, but the nearest that was "
            f"found ({more} may find it)"
        )


def _grid_path(grid: str, outdir: str) -> Path | None:
    if grid.lower() in _OFF:
        return None
    path = Path(outdir) / "grid.png" if grid.lower() in _ON else Path(grid)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise click.BadParameter(f"--grid {grid}: must be on, off or a .png, .pdf or .svg file")
    return path
