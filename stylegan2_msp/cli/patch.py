"""`patch`: a checkout of stylegan2-ada-pytorch learns the condition, and runs on today's libraries."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("checkout", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Only say what would be done.")
@click.option("--reverse", is_flag=True, help="Take the patches back; the files are then as they were, to the byte.")
def patch(checkout: Path, check: bool, reverse: bool) -> None:
    """Patch CHECKOUT, the root of a stylegan2-ada-pytorch checkout (commit d72cc7d).

    The patches only insert lines of ours, which need this package installed where the checkout runs. They are applied
    all or not at all; files that are not as that commit left them are refused.
    """
    from stylegan2_msp.upstream.patching import our_patches, patch_checkout

    for line in patch_checkout(checkout, our_patches(), reverse=reverse, check=check):
        click.echo(line)
