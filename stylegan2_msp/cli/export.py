"""`export`: a snapshot for a stylegan2-ada-pytorch checkout, for ONNX runtimes, or as a torch.export program."""

from __future__ import annotations

from pathlib import Path

import click

_SUFFIX = {"reference": ".pkl", "onnx": ".onnx", "torch-export": ".pt2"}


@click.command()
@click.option("--network", metavar="PATH", help="Snapshot or folder.  [default: the newest under training-runs]")
@click.option("--to", "form", type=click.Choice(list(_SUFFIX)), required=True, help="What to write.")
@click.option("--dest", type=click.Path(path_type=Path), help="Where to write.  [default: beside it, .pkl/.onnx/.pt2]")
@click.option(
    "--noise",
    type=click.Choice(["const", "none", "input"]),
    help="Noise of onnx and torch-export: the stored maps, none, or a further input.  [default: const]",
)
def export(network: str | None, form: str, dest: Path | None, noise: str | None) -> None:
    """Write a trained network in another form.

    reference: a pickle that a checkout of stylegan2-ada-pytorch loads where this package is installed. onnx and
    torch-export: a function of z, class and msp (and noise) to images, kept only when running it gave our own images.
    """
    if form == "reference" and noise is not None:
        raise click.UsageError("--noise: goes with --to onnx and torch-export; leave it out")

    from stylegan2_msp.files import make_folder
    from stylegan2_msp.generation import find_snapshot

    path = find_snapshot(network)
    target = path.with_suffix(_SUFFIX[form]) if dest is None else dest
    make_folder(target.parent)
    click.echo(f"network {path}")
    if form == "reference":
        from stylegan2_msp.upstream.export_reference import export_reference

        for note in export_reference(path, target):
            click.echo(note, err=True)
        click.echo(f"{target}")
        return
    from stylegan2_msp.upstream.export_traced import export_onnx, export_torch

    made = (export_onnx if form == "onnx" else export_torch)(path, target, noise or "const")
    size = f" ({made.noise_size} numbers of noise per item)" if made.noise == "input" else ""
    click.echo(f"{target}: inputs {', '.join(made.inputs)}{size}; checked against the generator")
