"""--class, --msp and --uncertainty of the checkout's generate.py, style_mixing.py and projector.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import torch

from stylegan2_msp.networks.truncation import ConditionalMean
from stylegan2_msp.uncertainty import MEASURES
from stylegan2_msp.upstream.loading import Label

Command = Callable[..., Any]
_SLACK = 1e-6  # 1 / K cannot be typed exactly
_SAMPLES = 1024  # z over which the centre of a label is taken

class_option = click.option("--class", "class_idx", type=int, help="Class of a conditional network")


def level_options(command: Command) -> Command:
    """Adds --msp and --uncertainty."""
    command = click.option("--uncertainty", type=float, help="The same for a network of any measure, MSP too")(command)
    return click.option("--msp", type=float, help="MSP to ask for [default: the most certain]")(command)


class Asked:
    """What the options ask of a generator; without them, and for a network that nobody calls ours, nothing changes.

    Args:
        G: a generator; `upstream.loading` has noted what its label holds, where that is known.
        class_idx, msp, uncertainty: the options, None where not given.

    Raises:
        click.UsageError: the options do not go with each other or with the network.
    """

    def __init__(self, G: Any, class_idx: int | None, msp: float | None, uncertainty: float | None) -> None:
        self.G, self.class_idx = G, class_idx
        level = uncertainty if msp is None else msp
        if msp is not None and uncertainty is not None:
            raise click.UsageError("--msp and --uncertainty are two names of one option; give one of them")
        self.meaning: Label | None = getattr(G, "msp_label", None)
        if self.meaning is not None and not self.meaning.size:
            if level is not None:
                raise click.UsageError("--msp: this network was trained without uncertainty; leave it out")
            self.meaning = None
        if self.meaning is None and level is not None:
            if G.c_dim < 2:
                raise click.UsageError("--msp: this network has no label that could hold one; leave it out")
            self.meaning = Label(G.c_dim - 1)  # the checkout's own network, trained with --cond=1 on our labels
        if self.meaning is None:
            return
        if msp is not None and self.meaning.uncertainty != "msp":
            raise click.UsageError(f"--msp: this network knows {self.meaning.uncertainty}; use --uncertainty")
        if class_idx is not None and not 0 <= class_idx < self.meaning.num_classes:
            raise click.UsageError(f"--class {class_idx}: choose one from 0 to {self.meaning.num_classes - 1}")
        self.level = _checked(level, self.meaning)

    def class_or_any(self, class_idx: int | None) -> int | None:
        """The class; some class where none was asked for and `label` is going to choose by the seed."""
        return 0 if class_idx is None and self.meaning is not None else class_idx

    def label(self, seed: int, plain: torch.Tensor) -> torch.Tensor:
        """c [1, c_dim] of an image; without a class that is the seed modulo K. ``plain`` is what stands otherwise."""
        if self.meaning is None:
            return plain
        chosen = seed % self.meaning.num_classes if self.class_idx is None else self.class_idx
        c = self._vector(chosen).to(plain)
        if not hasattr(self.G.mapping, "centre_of"):  # ours has a centre per label
            set_centre(self.G, c)
        return c

    def answer_none(self) -> None:
        """Makes `G.mapping(z, None)` mean the label asked for; of a network without labels it stays as it is.

        Raises:
            click.UsageError: the network is conditional and no class is given, or none that it has.
        """
        G = self.G
        if G.c_dim == 0:
            return
        count = G.c_dim if self.meaning is None else self.meaning.num_classes
        if self.class_idx is None or not 0 <= self.class_idx < count:
            raise click.UsageError(f"--class: this network is conditional; choose one from 0 to {count - 1}")
        c = torch.nn.functional.one_hot(torch.tensor([self.class_idx]), G.c_dim).float()
        if self.meaning is not None:
            c = self._vector(self.class_idx)
        c = c.to(next(G.parameters()).device)
        set_centre(G, c)
        G.mapping.register_forward_pre_hook(_LabelForNone(c), with_kwargs=True)

    def as_rgb(self) -> None:
        """Lets a grey generator give three equal channels: the projector compares with RGB targets."""
        if self.G.img_channels == 1:
            self.G.img_channels = 3
            self.G.synthesis.register_forward_hook(_three_channels)

    def _vector(self, chosen: int) -> torch.Tensor:
        assert self.meaning is not None
        one_hot = torch.nn.functional.one_hot(torch.tensor([chosen]), self.meaning.num_classes).float()
        return torch.cat([one_hot, torch.full([1, 1], self.level)], dim=1)


@torch.no_grad()
def set_centre(G: Any, c: torch.Tensor) -> None:
    """Puts the mean of mapping(z, c) over z where truncation looks for the mean of all w: in w_avg."""
    centre_of = getattr(G.mapping, "centre_of", None)
    if centre_of is not None:
        mean = centre_of(c, G.mapping.w_avg)[0]
    else:
        z = ConditionalMean(G.z_dim, _SAMPLES).z(c.device)  # those of the network as `import` rebuilds it
        mean = G.mapping(z, c.expand(len(z), -1))[:, 0].mean(dim=0)
    G.mapping.w_avg.copy_(mean)


class _LabelForNone:
    """Pre-hook of a mapping network: None as the label becomes the one that is asked for."""

    def __init__(self, c: torch.Tensor) -> None:
        self.c = c

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        z = args[0] if args else kwargs["z"]
        if len(args) > 1 and args[1] is None:
            args = (z, self.c.expand(len(z), -1), *args[2:])
        elif len(args) < 2 and kwargs.get("c") is None:
            kwargs = {**kwargs, "c": self.c.expand(len(z), -1)}
        return args, kwargs


def _three_channels(module: Any, args: Any, images: torch.Tensor) -> torch.Tensor:
    return images.expand(-1, 3, -1, -1)


def _checked(level: float | None, meaning: Label) -> float:
    """The level, by default the certain one; click.UsageError where the measure has no such value."""
    if meaning.size > 1:
        raise click.UsageError("this network is conditioned on softmax vectors; use `stylegan2-msp generate`")
    measure, K = MEASURES[meaning.uncertainty](), meaning.num_classes
    if level is None:
        return measure.sure(K)
    low, high = measure.low(K), measure.high(K)
    if not low - _SLACK <= level <= high + _SLACK:
        raise click.UsageError(f"--msp (--uncertainty) {level:g}: {measure.title} lies in [{low:g}, {high:g}]")
    return level
