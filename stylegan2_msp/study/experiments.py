"""What is compared with what: the table of experiments."""

from __future__ import annotations

from dataclasses import dataclass

# The paper's method: natural labels, one linear layer for [class, u], no term through the classifier, D told no more.
PLAIN = ("--consistency=0", "--flatten=0", "--embedding=linear", "--sharpness=0", "--diversity=0")


@dataclass(frozen=True)
class Variant:
    """One way to train and to measure.

    Attributes:
        name: its folder and row.
        train: options of `train` beyond the defaults.
        measure: what is conditioned on; another one than MSP makes an archive of its own.
        compared: False for a network that is trained only to be a baseline of the others (class-only).
        of: name of an earlier variant whose network is measured once more, in another way; nothing is trained.
        evaluate: options of `evaluate` beyond the defaults.
    """

    name: str
    train: tuple[str, ...] = ()
    measure: str = "msp"
    compared: bool = True
    of: str | None = None
    evaluate: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """One comparison on one kind of data.

    Attributes:
        title: what it shows.
        data: words of `dataset` that make the archive; '{source}' stands for --source.
        kimg: length of each training at --scale 1.
        variants: the rows; a class-only variant comes first, as the others are compared with it.
        images: items of each distribution that `evaluate` takes.
        annotate: words of `dataset annotate` that follow, where the source alone gives no measure.
    """

    title: str
    data: tuple[str, ...]
    kimg: float
    variants: tuple[Variant, ...]
    images: int = 10000
    annotate: tuple[str, ...] = ()

    @property
    def needs_source(self) -> bool:
        """Whether --source must be given."""
        return "{source}" in self.data and self.data[0] == "folder"


_PLAIN, _OURS = Variant("plain", PLAIN), Variant("ours")
_SEARCHED = Variant("ours, level searched", of="ours", evaluate=("--within=0.03",))  # as `generate` does
_DRAWING = ("--within=0.05", "--draws=40")
# Only D teaches the condition (Fourier features, sharpness, a few more rare levels); exact levels come from drawing.
_NO_TERM = Variant("ours, no term", ("--consistency=0", "--flatten=0.1", "--diversity=0"))
_DRAWN, _PLAIN_DRAWN, _NO_TERM_DRAWN = (
    Variant(f"{name}, latents drawn", of=name, evaluate=_DRAWING) for name in ("ours", "plain", "ours, no term")
)
_CLASS_ONLY = Variant("class-only", ("--cond-msp=0", "--cond=1"), compared=False)
_ALL = (_CLASS_ONLY, _PLAIN, _PLAIN_DRAWN, _OURS, _SEARCHED, _DRAWN, _NO_TERM, _NO_TERM_DRAWN)
_MNISTC = ("mnist", "--source", "{source}", "--corrupt", "gaussian")
_PARTS = (
    Variant("no consistency", ("--consistency=0",)),
    Variant("no class term", ("--consistency-class=0",)),
    Variant("no flattening", ("--flatten=0",)),
    Variant("linear embedding", ("--embedding=linear",)),
    Variant("learned embedding", ("--embedding=learned",)),
    Variant("FiLM", ("--embedding=film",)),
    Variant("label noise", ("--label-noise=auto",)),
    Variant("vicinal", ("--label-noise=auto", "--vicinal=0.02")),
    Variant("uniform levels", ("--consistency-uniform=1",)),
)
_PARTS_OF_IMAGES = (
    Variant("no sharpness", ("--sharpness=0",)),
    Variant("no diversity term", ("--diversity=0",)),
    Variant("augmented term", ("--consistency-augment=0.25",)),
    Variant("no witness", ("--consistency-witness=0",)),
)
_MEASURES = tuple(
    Variant(f"measure {name}", measure=name)
    for name in ("entropy", "margin", "true_class", "energy", "mutual_information", "softmax")
)

EXPERIMENTS: dict[str, Experiment] = {
    "moons": Experiment("Moons: the paper's plain conditioning and ours", ("moons",), 5000, (_PLAIN, _OURS, _SEARCHED)),
    "moons-ablation": Experiment(
        "Moons: each part switched off or on, and each measure", ("moons",), 3000, (_PLAIN, _OURS, *_PARTS, *_MEASURES)
    ),
    "digits": Experiment(
        "Corrupted digits of scikit-learn (16x16): plain and ours",
        ("digits", "--corrupt", "gaussian"),
        90,
        _ALL,
        images=3000,
    ),
    "mnist": Experiment("Clean MNIST: plain and ours", ("mnist", "--source", "{source}"), 600, _ALL),
    "mnistc": Experiment("Corrupted MNIST: plain and ours", _MNISTC, 600, _ALL),
    "ablation": Experiment(
        "Corrupted MNIST: each part switched off or on, and each measure",
        _MNISTC,
        300,
        (_PLAIN, _OURS, *_PARTS, *_PARTS_OF_IMAGES, *_MEASURES),
    ),
    "photographs": Experiment(
        "Photographs from --source through `dataset folder` (for example CIFAR-10): plain and ours",
        ("folder", "--source", "{source}", "--resolution", "32"),
        600,
        _ALL,
        annotate=("--classifier", "train"),
    ),
}
