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
from stylegan2_msp.generation import Answer, ConditionalGenerator, Request, to_uint8
from stylegan2_msp.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_IMAGES = 1_000_000
CSV_NAME = "generated.csv"
FIELDS = ("file", "seed", "class", "msp_in", "prediction", "msp_out")
_MARK_WRONG = "bold orange: not the class asked for"


@dataclass(frozen=True)
class Written:
    """What a call left behind: number of items, the table, and the grid or None."""

    count: int
    table: Path
    grid: Path | None


@dataclass(frozen=True)
class Plan:
    """What to generate: every (seed, class) pair at every level.

    Attributes:
        pairs: columns of the grid, in order.
        levels: rows of the grid, in order; (None,) where the generator takes no MSP.
    """

    pairs: Sequence[tuple[int, int | None]]
    levels: Sequence[float | None]

    @property
    def requests(self) -> list[Request]:
        """One request per image, level by level."""
        return [Request(seed, cls, msp) for msp in self.levels for seed, cls in self.pairs]

    @property
    def shown(self) -> tuple[Sequence[tuple[int, int | None]], Sequence[float | None]]:
        """The pairs and the levels that a readable grid has room for: whole seeds where the classes allow it."""
        from stylegan2_msp.report.grids import MAX_COLUMNS, MAX_ROWS, spread

        per_seed = max(len({cls for seed, cls in self.pairs if seed == self.pairs[0][0]}), 1)
        room = MAX_COLUMNS // per_seed * per_seed or MAX_COLUMNS
        return self.pairs[:room], [self.levels[i] for i in spread(len(self.levels), MAX_ROWS)]


def make_plan(
    generator: ConditionalGenerator, seeds: Sequence[int], classes: Sequence[int] | None, msp: Sequence[float] | None
) -> Plan:
    """Every (class, seed) pair at every MSP; without classes, seed modulo K; without MSP, 1.0 and 0.7 as in the paper.

    Raises:
        UserError: the generator cannot answer, or there are too many images.
    """
    if classes is None:
        pairs: list[tuple[int, int | None]] = [
            (s, s % generator.num_classes if generator.takes_class else None) for s in seeds
        ]
    else:
        pairs = [(s, cls) for s in seeds for cls in classes]
    levels: Sequence[float | None] = msp or ([1.0, 0.7] if generator.takes_msp else [None])
    if len(pairs) * len(levels) > MAX_IMAGES:
        raise UserError(f"--seeds: {len(pairs) * len(levels)} images asked for, at most {MAX_IMAGES}; ask for fewer")
    plan = Plan(pairs, levels)
    generator.check([Request(seed, cls, levels[0]) for seed, cls in pairs])
    generator.check([Request(pairs[0][0], pairs[0][1], msp) for msp in levels])
    return plan


def write_generated(
    generator: ConditionalGenerator,
    plan: Plan,
    outdir: str | Path,
    grid: str | Path | None,
    truncation_psi: float = 1.0,
    noise_mode: str = "const",
    batch: int = 32,
) -> Written:
    """Generates the plan and writes one PNG per image (points: coordinates in the table), generated.csv and the grid.

    The classifier is asked about the picture as it is written, rounded to bytes.

    Raises:
        UserError: a file cannot be written.
    """
    if grid is not None:
        make_folder(Path(grid).parent)
    folder = make_folder(outdir)
    rows: list[dict[str, Any]] = []
    kept: dict[Request, torch.Tensor] = {}
    answers: dict[Request, Answer | None] = {}
    shown = {(pair, level) for level in plan.shown[1] for pair in plan.shown[0]}
    points = generator.kind == "points"
    wanted = plan.requests
    passes = generator.batches(wanted, truncation_psi, noise_mode, batch)
    for part, items in track(passes, "generating", len(wanted), generator.kind, step=batch):
        pictures, verdicts = as_written(generator, items)
        for request, item, answer in zip(part, pictures, verdicts, strict=True):
            extra: dict[str, Any] = {}
            if points:
                extra = {"x": f"{float(item[0]):.6f}", "y": f"{float(item[1]):.6f}"}
            else:
                extra = {"file": file_name(request, generator.num_classes)}
                _write_png(item, folder / extra["file"])
            rows.append(_row(request, answer) | extra)
            if points or ((request.seed, request.cls), request.msp) in shown:
                kept[request], answers[request] = item, answer
    table = folder / CSV_NAME
    fields = (*FIELDS[1:], "x", "y") if points else FIELDS
    with replacing(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    if grid is not None:
        from stylegan2_msp.report.style import save_figure  # matplotlib takes long to import

        save_figure(draw(generator, plan, kept, answers), grid)
    return Written(len(rows), table, None if grid is None else Path(grid))


def file_name(request: Request, num_classes: int) -> str:
    """``class3-msp0.70-seed0005.png``; parts that the generator does not take are left out."""
    parts = []
    if request.cls is not None:
        parts.append(f"class{request.cls:0{len(str(max(num_classes - 1, 0)))}d}")
    if request.msp is not None:
        parts.append(f"msp{msp_text(request.msp)}")
    return "-".join([*parts, f"seed{request.seed:04d}.png"])


def msp_text(msp: float) -> str:
    """An MSP with two decimals, or with as many as it needs up to six."""
    short = f"{msp:.2f}"
    return short if abs(float(short) - msp) < 5e-7 else f"{msp:.6f}".rstrip("0")


def _row(request: Request, answer: Answer | None) -> dict[str, Any]:
    return {
        "seed": request.seed,
        "class": "" if request.cls is None else request.cls,
        "msp_in": "" if request.msp is None else f"{request.msp:.6g}",
        "prediction": "" if answer is None else answer.prediction,
        "msp_out": "" if answer is None else f"{answer.msp:.6f}",
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
) -> Figure:
    """The labelled grid of a plan (rows MSP, columns seeds and classes); for points a scatter coloured by MSP.

    Args:
        items: uint8 [C, H, W] of each request that `Plan.shown` names, or points [2] of any requests.
        answers: what the classifier says of them.
    """
    from stylegan2_msp.report.grids import Caption, class_label, fig3_grid

    if generator.kind == "points":
        return _scatter(items, answers, generator)
    pairs, levels = plan.shown
    images, captions = {}, {}
    for r, msp in enumerate(levels):
        for c, (seed, cls) in enumerate(pairs):
            request = Request(seed, cls, msp)
            images[r, c] = items[request].numpy()
            answer = answers[request]
            if answer is not None:
                name = generator.class_names[answer.prediction]
                captions[r, c] = Caption(name, answer.msp, cls is None or cls == answer.prediction)
    notes = [f"Above each image: prediction and probability of the classifier ({_MARK_WRONG})."] if captions else []
    if len(pairs) < len(plan.pairs):
        notes.append(f"{len(pairs)} of {len(plan.pairs)} columns shown; {CSV_NAME} has all.")
    if len(levels) < len(plan.levels):
        notes.append(f"{len(levels)} of {len(plan.levels)} rows shown; {CSV_NAME} has all.")
    columns = [("" if k is None else class_label(generator.class_names[k]) + "\n") + f"seed {s}" for s, k in pairs]
    rows = ["" if msp is None else level_label(msp) for msp in levels]
    return fig3_grid(images, rows, columns, captions, note=" ".join(notes))


def picture_of(generator: ConditionalGenerator, plan: Plan, batch: int = 32) -> Figure:
    """`draw` of a plan that is generated for the picture only: nothing but the figure is kept."""
    shown = Plan(*plan.shown) if generator.kind == "images" else plan
    items: dict[Request, torch.Tensor] = {}
    answers: dict[Request, Answer | None] = {}
    for part, made in generator.batches(shown.requests, batch=batch):
        pictures, verdicts = as_written(generator, made)
        items.update(zip(part, pictures, strict=True))
        answers.update(zip(part, verdicts, strict=True))
    return draw(generator, plan, items, answers)


def as_written(generator: ConditionalGenerator, made: torch.Tensor) -> tuple[torch.Tensor, list[Answer | None]]:
    """Items as they go into files (images: uint8), on the CPU, and what the classifier says of exactly those."""
    if generator.kind == "points":
        return made.cpu(), generator.answers(made)
    pictures = to_uint8(made)
    return pictures.cpu(), generator.answers(pictures.float() / 127.5 - 1)


def level_label(msp: float) -> str:
    """'MSP 0.7', with at least one decimal."""
    return f"MSP {msp_text(msp).removesuffix('0')}"


def _scatter(
    items: Mapping[Request, torch.Tensor], answers: Mapping[Request, Answer | None], generator: ConditionalGenerator
) -> Figure:
    from stylegan2_msp.report.points import points_asked_and_got

    xy = torch.stack(list(items.values())).numpy()
    classes = [r.cls or 0 for r in items]
    out = [a.msp for a in answers.values() if a is not None]
    return points_asked_and_got(
        xy, classes, [1.0 if r.msp is None else r.msp for r in items], out or None, generator.class_names
    )
