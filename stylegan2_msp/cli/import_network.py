"""`import`: a network of the StyleGAN2-ADA family becomes a snapshot of this package."""

from __future__ import annotations

from pathlib import Path

import click

from stylegan2_msp.cli.annotate import MEASURES


@click.command("import")
@click.argument("network", type=click.Path(path_type=Path), metavar="NETWORK.pkl")
@click.option("--dest", type=click.Path(path_type=Path), help="Where to write.  [default: beside it, .safetensors]")
@click.option(
    "--uncertainty",
    type=click.Choice(list(MEASURES)),
    help="What the label's last numbers are, where it is more than the class.  [default: labels are classes]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="X.zip",
    help="Archive that it was trained on: its classifier goes into the snapshot.",
)
def import_network(network: Path, dest: Path | None, uncertainty: str | None, data: Path | None) -> None:
    """Turn a pickled network of stylegan2-ada-pytorch or stylegan3 (its StyleGAN2) into a snapshot.

    The pickle is read as data: its embedded source is never executed, and names of anything but tensors and plain
    containers are refused. `generate --network` takes the snapshot, and `train --resume` starts from it.
    With a classifier in it (--data), `evaluate` and `report` measure it and `generate` writes the classifier's answers.
    """
    from stylegan2_msp.errors import UserError
    from stylegan2_msp.files import make_folder
    from stylegan2_msp.snapshot import save_snapshot
    from stylegan2_msp.upstream.import_network import import_network as read
    from stylegan2_msp.upstream.import_network import with_data

    target = network.with_suffix(".safetensors") if dest is None else dest
    if target.suffix != ".safetensors":
        raise UserError(f"--dest {target}: must end in .safetensors, as snapshots do")
    found = read(network, uncertainty)
    if data is not None:
        found = with_data(found, data)
    make_folder(target.parent)
    save_snapshot(target, found.G, found.classifier, found.info, found.D)
    size, classes = found.G.init_kwargs["img_resolution"], found.info["num_classes"]  # type: ignore[index]
    click.echo(f"{target}: {size} x {size} pixels, {classes} classes, condition {found.info['condition']}")
    if found.D is None:
        click.echo(f"{network}: holds no discriminator; training from it starts with a new one", err=True)
