"""The output folder of `generate`: images, the labelled grid and the table of what the classifier says."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from stylegan2_msp.errors import UserError
from stylegan2_msp.files import make_folder, replacing
from stylegan2_msp.generation import ConditionalGenerator, to_uint8
from stylegan2_msp.progress import track
from stylegan2_msp.request import Answer, Level, Request
from stylegan2_msp.search import Search
from stylegan2_msp.uncertainty import Measure, Msp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_IMAGES = 1_000_000
CSV_NAME = "generated.csv"
LEVELS = (1.0, 0.7)  # of MSP, the paper's
_MARK_WRONG = "bold orange: not the class asked for"


@dataclass(frozen=True)
class Written:
    """What a call left behind.

    Attributes:
        count: number of items.
        table: generated.csv.
        grid: the picture of all, or None.
        off: mean distance of the classifier's answers from the levels asked for; None where nobody was asked.
        missed: items for which a search found nothing near enough, so that the nearest stands for it.
    """

    count: int
    table: Path
    grid: Path | None
    off: float | None
    missed: int


@dataclass(frozen=True)
class Plan:
    """What to generate: every (seed, class) pair at every level.

    Attributes:
        pairs: columns of the grid, in order.
        levels: rows of the grid, in order; (None,) where the generator takes no uncertainty.
    """

    pairs: Sequence[tuple[int, int | None]]
    levels: Sequence[Level | None]

    @property
    def requests(self) -> list[Request]:
        """One request per image, level by level."""
        return [Request(seed, cls, u) for u in self.levels for seed, cls in self.pairs]

    @property
    def shown(self) -> tuple[Sequence[tuple[int, int | None]], Sequence[Level | None]]:
        """The pairs and the levels that a readable grid has room for: whole seeds where the classes allow it."""
        from stylegan2_msp.report.grids import MAX_COLUMNS, MAX_ROWS, spread

        per_seed = max(len({cls for seed, cls in self.pairs if seed == self.pairs[0][0]}), 1)
        room = MAX_COLUMNS // per_seed * per_seed or MAX_COLUMNS
        return self.pairs[:room], [self.levels[i] for i in spread(len(self.levels), MAX_ROWS)]


def make_plan(
    generator: ConditionalGenerator, seeds: Sequence[int], classes: Sequence[int] | None, u: Sequence[float] | None
) -> Plan:
    """Every (class, seed) pair at every level; without classes, seed modulo K.

    Without levels: MSP 1.0 and 0.7 as in the paper, of other measures the certain end and 0.3 from it.

    Raises:
        UserError: the generator cannot answer, or there are no seeds or too many images.
    """
    if not len(seeds):
        raise UserError("--seeds: names none; give one or more, for example 0-7")
    if classes is None:
        pairs: list[tuple[int, int | None]] = [
            (s, s % generator.num_classes if generator.takes_class else None) for s in seeds
        ]
    else:
        pairs = [(s, cls) for s in seeds for cls in classes]
    levels: Sequence[Level | None] = [None]
    if u or generator.takes_u:
        levels = u or measure_levels(generator.measure, generator.num_classes, LEVELS)
    if len(pairs) * len(levels) > MAX_IMAGES:
        raise UserError(f"--seeds: {len(pairs) * len(levels)} images asked for, at most {MAX_IMAGES}; ask for fewer")
    plan = Plan(pairs, levels)
    generator.check([Request(seed, cls, levels[0]) for seed, cls in pairs])
    generator.check([Request(pairs[0][0], pairs[0][1], u) for u in levels])
    return plan


def measure_levels(measure: Measure, num_classes: int, levels: Sequence[float]) -> list[float]:
    """Levels of MSP, as far as K classes can have them; where low is sure, as many as far from the other end."""
    mirrored = [level if measure.certain == "high" else round(1 - level, 6) for level in levels]
    return [u for u in mirrored if measure.low(num_classes) - 1e-6 <= u <= measure.high(num_classes)]


def write_generated(
    generator: ConditionalGenerator,
    plan: Plan,
    outdir: str | Path,
    grid: str | Path | None,
    truncation_psi: float = 1.0,
    noise_mode: str = "const",
    batch: int = 32,
    search: Search | None = None,
) -> Written:
    """Generates the plan and writes one PNG per image (points: coordinates in the table), generated.csv and the grid.

    The classifier is asked about the picture as it is written, rounded to bytes. Last in the table stand the class's
    name and, where levels were searched, the level that G was given.

    Raises:
        UserError: a file cannot be written.
    """
    if grid is not None:
        make_folder(Path(grid).parent)
    folder = make_folder(outdir)
    rows: list[dict[str, Any]] = []
    off: list[float] = []
    missed = 0
    kept: dict[Request, torch.Tensor] = {}
    answers: dict[Request, Answer | None] = {}
    shown = {(pair, level) for level in plan.shown[1] for pair in plan.shown[0]}
    points = generator.kind == "points"
    columns = table_columns(generator.measure)
    wanted = plan.requests
    passes = generator.batches(wanted, truncation_psi, noise_mode, batch, search)
    for made in track(passes, "generating", len(wanted), generator.kind, step=batch):
        pictures, verdicts = as_written(generator, made.items, made.requests)
        missed += 0 if made.reached is None else int((~made.reached).sum())
        for i, (request, item, answer) in enumerate(zip(made.requests, pictures, verdicts, strict=True)):
            row = _row(request, answer, *columns)
            if points:
                row |= {"x": f"{float(item[0]):.6f}", "y": f"{float(item[1]):.6f}"}
            else:
                row = {"file": file_name(request, generator.num_classes, generator.measure.name)} | row
                _write_png(item, folder / row["file"])
            row["class_name"] = "" if request.cls is None else generator.class_names[request.cls]
            if made.given is not None:
                row[columns[0].removesuffix("in") + "given"] = f"{float(made.given[i]):.6f}"
            rows.append(row)
            if answer is not None and request.u is not None:
                off.append(abs(answer.u - _asked(request)))
            if points or ((request.seed, request.cls), request.u) in shown:
                kept[request], answers[request] = item, answer
    table = folder / CSV_NAME
    with replacing(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if grid is not None:
        from stylegan2_msp.report.style import save_figure  # matplotlib takes long to import

        save_figure(draw(generator, plan, kept, answers, search is not None and search.draws is not None), grid)
    return Written(len(rows), table, Path(grid) if grid else None, sum(off) / len(off) if off else None, missed)


def table_columns(measure: Measure) -> tuple[str, str]:
    """Names of the columns of the level asked for and the one that the classifier answers."""
    name = "msp" if measure.name == "msp" else "uncertainty"
    return f"{name}_in", f"{name}_out"


def file_name(request: Request, num_classes: int, measure: str = "msp") -> str:
    """``class3-msp0.70-seed0005.png``; parts that the generator does not take are left out."""
    parts = []
    if request.cls is not None:
        parts.append(f"class{request.cls:0{len(str(max(num_classes - 1, 0)))}d}")
    if request.u is not None:
        parts.append(f"{measure}{level_text(request.u)}")
    return "-".join([*parts, f"seed{request.seed:04d}.png"])


def level_text(u: Level) -> str:
    """A level with two decimals, or with as many as it needs up to six; the numbers of a vector in a row."""
    if isinstance(u, tuple):
        return "_".join(level_text(p) for p in u)
    short = f"{u:.2f}"
    return short if abs(float(short) - u) < 5e-7 else f"{u:.6f}".rstrip("0")


def _row(request: Request, answer: Answer | None, asked: str, answered: str) -> dict[str, Any]:
    return {
        "seed": request.seed,
        "class": "" if request.cls is None else request.cls,
        asked: "" if request.u is None else f"{_asked(request):.6g}",
        "prediction": "" if answer is None else answer.prediction,
        answered: "" if answer is None else f"{answer.u:.6f}",
    }


def _write_png(picture: torch.Tensor, path: Path) -> None:
    array = picture.numpy()
    image = Image.fromarray(array[0]) if array.shape[0] == 1 else Image.fromarray(array.transpose(1, 2, 0))
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


def draw(
    generator: ConditionalGenerator,
    plan: Plan,
    items: Mapping[Request, torch.Tensor],
    answers: Mapping[Request, Answer | None],
    drawn: bool = False,
) -> Figure:
    """The labelled grid of a plan (rows levels, columns seeds and classes); for points a scatter coloured by level.

    Args:
        items: uint8 [C, H, W] of each request that `Plan.shown` names, or points [2] of any requests.
        answers: what the classifier says of them.
        drawn: whether every image has a latent of its own.
    """
    from stylegan2_msp.report.grids import Caption, class_labels, fig3_grid, short_names

    if generator.kind == "points":
        return _scatter(items, answers, generator)
    pairs, levels = plan.shown
    measure = generator.measure
    names, heads = short_names(generator.class_names), class_labels(generator.class_names)
    images, captions = {}, {}
    for r, u in enumerate(levels):
        for c, (seed, cls) in enumerate(pairs):
            request = Request(seed, cls, u)
            images[r, c] = items[request].numpy()
            if (answer := answers[request]) is not None:
                captions[r, c] = Caption(names[answer.prediction], answer.u, cls in (None, answer.prediction))
    said = "prediction and probability of the classifier"
    if measure.name != "msp":
        said = f"prediction of the classifier, and its {measure.title}"
    notes = [f"Above each image: {said} ({_MARK_WRONG})."] if captions else []
    if drawn:
        notes.append("Each image has a latent of its own.")
    if len(pairs) < len(plan.pairs):
        notes.append(f"{len(pairs)} of {len(plan.pairs)} columns shown; {CSV_NAME} has all.")
    if len(levels) < len(plan.levels):
        notes.append(f"{len(levels)} of {len(plan.levels)} rows shown; {CSV_NAME} has all.")
    columns = [("" if k is None else heads[k] + "\n") + f"seed {s}" for s, k in pairs]
    rows = ["" if u is None else level_label(u, measure) for u in levels]
    return fig3_grid(images, rows, columns, captions, note=" ".join(notes))


def picture_of(generator: ConditionalGenerator, plan: Plan, batch: int = 32) -> Figure:
    """`draw` of a plan that is generated for the picture only: nothing but the figure is kept."""
    shown = Plan(*plan.shown) if generator.kind == "images" else plan
    items: dict[Request, torch.Tensor] = {}
    answers: dict[Request, Answer | None] = {}
    for made in generator.batches(shown.requests, batch=batch):
        pictures, verdicts = as_written(generator, made.items, made.requests)
        items.update(zip(made.requests, pictures, strict=True))
        answers.update(zip(made.requests, verdicts, strict=True))
    return draw(generator, plan, items, answers)


def as_written(
    generator: ConditionalGenerator, made: torch.Tensor, wanted: Sequence[Request]
) -> tuple[torch.Tensor, list[Answer | None]]:
    """Items as they go into files (images: uint8), on the CPU, and what the classifier says of exactly those."""
    if generator.kind == "points":
        return made.cpu(), generator.answers(made, wanted)
    pictures = to_uint8(made)
    return pictures.cpu(), generator.answers(pictures.float() / 127.5 - 1, wanted)


def level_label(u: Level, measure: Measure | None = None) -> str:
    """'MSP 0.7', with at least one decimal; long titles of measures on two lines."""
    title = (measure or Msp()).title
    text = level_text(u).replace("_", "\n") if isinstance(u, tuple) else level_text(u).removesuffix("0")
    return f"{title}{chr(10) if len(title) > 12 else ' '}{text}"


def _scatter(
    items: Mapping[Request, torch.Tensor], answers: Mapping[Request, Answer | None], generator: ConditionalGenerator
) -> Figure:
    from stylegan2_msp.report.points import points_asked_and_got

    xy = torch.stack(list(items.values())).numpy()
    classes = [r.cls or 0 for r in items]
    out = [a.u for a in answers.values() if a is not None]
    asked = [_asked(r) for r in items]
    return points_asked_and_got(xy, classes, asked, out or None, generator.class_names, generator.measure)


def _asked(request: Request) -> float:
    """One number of what was asked; of a vector the probability of the class."""
    if isinstance(request.u, tuple):
        return request.u[request.cls or 0]
    return 1.0 if request.u is None else request.u
