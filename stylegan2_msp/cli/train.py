"""`train`: options of the field's train.py, those of the condition, and nothing else."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from stylegan2_msp.presets import PRESETS


class NumberOrAuto(click.ParamType):
    """A number, or the word auto."""

    name = "float|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """The number, or 'auto'."""
        return value if value == "auto" else click.FLOAT.convert(value, param, ctx)


@click.command()
@click.option(
    "--outdir",
    type=click.Path(path_type=Path),
    default=Path("training-runs"),
    show_default=True,
    help="Folder of all runs.",
)
@click.option("--data", help="Archive (zip or folder) made by `dataset`; needed unless --resume knows it.")
@click.option(
    "--gpus",
    type=int,
    help="Processes that share a batch: one GPU each, or CPU processes on a machine without.  [default: 1]",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where to train.  [default: cuda if there is one]")
@click.option("--cond-msp", type=bool, help="Condition on [class, MSP].  [default: on when the data carry an MSP]")
@click.option(
    "--classifier", help="Annotate data that have class labels only: 'train', FILE.pt2 or package.module:factory."
)
@click.option("--classifier-weights", type=click.Path(), help="Safetensors file for package.module:factory.")
@click.option("--cond", type=bool, help="Condition on the class alone; 0 on nothing.  [default: as --cond-msp says]")
@click.option("--subset", type=int, help="Train on this many random images.  [default: all]")
@click.option("--mirror", type=bool, help="Mirror a random half of the images (refused with --cond-msp).  [default: 0]")
@click.option(
    "--cfg", type=click.Choice(list(PRESETS)), help="Preset.  [default: auto; tiny on CPUs, points for 2-D data]"
)
@click.option("--gamma", type=float, help="Weight of the R1 penalty.  [default: the preset's]")
@click.option(
    "--kimg",
    type=float,
    help="Length of training in thousands of images.  [default: tiny 600, points 3000, cifar 100000, the others 25000]",
)
@click.option("--batch", type=int, help="Batch over all processes.  [default: the preset's]")
@click.option("--batch-gpu", type=int, help="Images that one process takes at once.  [default: its share of the batch]")
@click.option("--lrate", type=float, help="Learning rate of both networks.  [default: the preset's]")
@click.option("--z-dim", type=int, help="Dimension of z (and of w).  [default: tiny 64, points 8, the others 512]")
@click.option(
    "--embedding",
    type=click.Choice(["split", "linear", "learned", "film"]),
    help="How the condition enters both networks: class and Fourier features of u apart (split), one linear layer as "
    "in the reference, features of u that a small network learns, or u scaling features (film).  [default: split]",
)
@click.option(
    "--consistency",
    type=float,
    help="Weight of E[|u out - u in| + KL] in G's loss; 0 is the paper's plain method.  [default: 2]",
)
@click.option("--consistency-kimg", type=float, help="The consistency terms start after this many kimg.  [default: 20]")
@click.option("--consistency-ramp", type=float, help="... and rise to full weight in this many kimg.  [default: 0]")
@click.option(
    "--consistency-uniform",
    type=float,
    help="Weight of the same term on a second batch of fakes, which D never sees, with u uniform.  [default: 0]",
)
@click.option(
    "--consistency-share",
    type=float,
    help="Size of that second batch relative to the first: what it costs.  [default: 0.5]",
)
@click.option(
    "--consistency-class",
    type=float,
    help="Weight of the term by which fakes are named right as often as reals of the same u, no less and no more.  "
    "[default: twice that of --consistency; 0 for softmax vectors]",
)
@click.option(
    "--consistency-augment",
    type=float,
    help="Probability of small shifts and faint noise on what the classifier is shown of fakes.  [default: 0]",
)
@click.option(
    "--consistency-witness",
    type=float,
    help="Weight of what G is charged where a second network, trained on the same labels, knows fakes better or worse "
    "than it knows reals, so that doubt is not the classifier's alone.  [default: 0.15 times that of --consistency for "
    "images; 0 for softmax vectors]",
)
@click.option(
    "--label-noise",
    type=NumberOrAuto(),
    help="Standard deviation of noise on the u that D is told; 'auto' is 1.06 std(u) N^(-1/5).  [default: 0]",
)
@click.option(
    "--vicinal",
    type=float,
    help="Half-width around the u that D is told within which reals and fakes are drawn (CcGAN's hard vicinal loss); "
    "0 is off.  [default: 0]",
)
@click.option(
    "--flatten",
    type=float,
    help="Share of samples, real and fake, drawn with equal levels of u per class; 0 is the natural distribution.  "
    "[default: 0.5]",
)
@click.option(
    "--sharpness",
    type=bool,
    help="Tell D how sharp an image is for its class and u, so that not all doubt becomes blur.  "
    "[default: on for images]",
)
@click.option(
    "--diversity",
    type=float,
    help="Weight of what G is charged where fakes of one label lie nearer to each other than reals near it do.  "
    "[default: 4 for images]",
)
@click.option("--aug", type=click.Choice(["ada", "fixed", "noaug"]), help="Augmentation.  [default: ada]")
@click.option("--p", type=float, help="Augmentation probability of --aug fixed, which needs it.")
@click.option("--target", type=float, help="Target of --aug ada.  [default: 0.6]")
@click.option(
    "--augpipe",
    help="Which augmentations: blit, geom, color, filter, noise, cutout, bg, bgc, bgcf, bgcfn, bgcfnc.  [default: bgc]",
)
@click.option(
    "--resume",
    help="auto (newest state in --outdir), a run folder or a state; a snapshot starts a new run from its weights.",
)
@click.option(
    "--freezed", type=int, help="Freeze this many of D's layers (when starting from another run).  [default: 0]"
)
@click.option("--snap", type=int, help="Ticks between snapshots.  [default: 10]")
@click.option("--tick", type=float, help="kimg between progress lines.  [default: tiny 10, points 100, the others 4]")
@click.option(
    "--metrics",
    type=click.Choice(["condition", "none"]),
    help="Measured at every tick; FID and more: evaluate.  [default: condition]",
)
@click.option("--seed", type=int, help="Seed of everything.  [default: 0]")
@click.option("--workers", type=int, help="Threads that decode the images.  [default: all cores]")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16", "bf16"]),
    help="Arithmetic.  [default: fp16 on CUDA, bf16 on CPUs that have it]",
)
@click.option("--fp32", type=bool, help="Full precision; the same as --precision fp32.  [default: 0]")
@click.option("--nhwc", type=bool, help="channels_last memory format for half precision on CUDA.  [default: on]")
@click.option(
    "--graphs",
    type=bool,
    help="Record a step's phases and replay them: a GPU's kernels, a CPU's operators.  [default: on, but between GPUs]",
)
@click.option("--nobench", type=bool, help="Leave cuDNN's benchmark off.  [default: 0]")
@click.option("--allow-tf32", type=bool, help="Let full precision use TF32 on CUDA.  [default: 0]")
@click.option("-n", "--dry-run", is_flag=True, help="Print the resolved configuration and stop.")
def train(outdir: Path, resume: str | None, dry_run: bool, **options: Any) -> None:
    """Train a generator (and discriminator) on an archive.

    Every option has a default: `train --data X.zip --cond-msp=1` is enough.
    """
    from stylegan2_msp.training.launch import start
    from stylegan2_msp.training.plan import Machine

    machine = Machine(**{item.name: options.pop(item.name) for item in fields(Machine)})
    sys.exit(start(options, outdir, resume, machine, dry_run))
