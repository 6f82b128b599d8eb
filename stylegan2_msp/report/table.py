"""The figures of a `Results` table as short Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stylegan2_msp.metrics.matching import LEAST
from stylegan2_msp.metrics.results import Results, Row

_SPLITS = ("natural", "uniform")
_BASELINES = (
    ("fakes", "this network"),
    ("searched", "its level searched, as by generate"),
    ("drawn", "its latents drawn, as by generate --draws 40"),
    ("shuffled", "condition shuffled"),
    ("rejection", "class only, rejection"),
    ("nearest real", "nearest real item"),
)
_MATCH = (
    ("mae", "mean abs(out - in)"),
    ("rmse", "root mean square of out - in"),
    ("bias", "mean(out - in)"),
    ("spearman", "Spearman"),
    ("kendall", "Kendall's tau-b"),
    ("concordance", "concordance (Lin)"),
    ("gap_equal_width", "calibration gap, bins of equal width"),
    ("gap_equal_mass", "calibration gap, bins of equal mass"),
    ("within", "share within half a step between levels"),
    ("levels_covered", f"levels with at least {LEAST:.0%} of their items that near"),
    ("monotonicity", "monotonicity at fixed z"),
    ("class_agreement", "class agreement"),
    ("second_class_agreement", "class agreement, second classifier"),
    ("second_mae", "second classifier: mean abs(out - in)"),
    ("second_spearman", "second classifier: Spearman"),
    ("second_concordance", "second classifier: concordance"),
    ("energy_ratio", "energy distance over that of two real samples"),
)
_QUALITY = ("fid", "kid", "precision", "recall", "density", "coverage", "diversity")
_KINDS = (("none", "clean"), ("blur", "blur"), ("noise", "noise"))


def markdown_table(results: Results) -> str:
    """What was measured, the match on both distributions, baselines, levels, classes, quality and corruption kinds."""
    sections = [_about, _match, _baselines, _levels, _classes, _quality, _mix]
    return "\n\n".join(text for section in sections if (text := section(results))) + "\n"


def _about(results: Results) -> str:
    about = results.about
    name = about["uncertainty"]
    text = (
        f"Snapshot {about['snapshot']} of {about['run']} ({_number(about['kimg'], 1)} kimg), data {about['data']}, "
        f"seed {about['seed']}, {about['items']} items per distribution. {name} in is what was asked of the generator, "
        f"{name} out what the classifier says. Natural: labels of random real items; uniform: every class at every "
        f"level{_grid(results)}; matched: labels of the real items in each level's bin. In brackets: 95 % intervals "
        "over items and latents of this one network."
    )
    if "searched_within" in about:
        how = f"up to {about['draws']} latents were drawn" if about.get("draws") else "their levels were searched"
        held = ", also under small shifts" if about.get("steady") else ""
        text += f" Fakes: {how} until the answer was within {about['searched_within']:g}{held}."
    if "truncation_psi" in about:
        text += f" Truncation psi {about['truncation_psi']:g}."
    for role in ("second", "probe"):
        judge = about.get(role)
        if judge:
            text += f" {role.capitalize()} classifier: {judge['architecture']}, {judge['val_accuracy']:.3f} held out."
    looked_at = {"second": "the second classifier's features", "coordinates": "the coordinates"}
    if about.get("features") in looked_at:
        text += f" Quality is measured on {looked_at[about['features']]}: comparable on the same data only."
    return text


def _grid(results: Results) -> str:
    """Which levels there are, and how much of the data the grid stands for, where that is known."""
    levels, reals = results.levels("mean", "uniform"), results.find("class_agreement", "natural", "reals")
    if not levels:
        return ""
    text = f", {len(levels)} from {levels[0].level:.2f} to {levels[-1].level:.2f}"
    if reals is None:
        return text
    held = sum(row.count for row in results.levels("class_agreement", "matched", "reals"))
    return f"{text}, in whose bins {100 * held / reals.count:.0f} % of the real items lie"


def _match(results: Results) -> str:
    columns = [(on, of) for on in _SPLITS for of in ("fakes", "reals") if results.find("class_agreement", on, of)]
    rows = []
    for figure, label in _MATCH:
        found = [results.find(figure, on, of) for on, of in columns]
        if any(found):
            rows.append([label, *map(_full, found)])
    return _table(["", *(f"{on}, {of}" for on, of in columns)], rows)


def _baselines(results: Results) -> str:
    shown = [(of, label) for of, label in _BASELINES if results.find("mae", "uniform", of)]
    if len(shown) < 2:
        return ""
    columns = [(figure, "uniform") for figure in ("mae", "spearman", "class_agreement", "second_spearman")]
    columns += [("mae", "natural"), ("spearman", "natural")]
    rows = []
    for of, name in shown:
        mae = results.find("mae", "uniform", of)
        label = f"{name} ({mae.count} items)" if mae and of in ("searched", "drawn") else name  # fewer than the others
        rows.append([label, *(_short(results.find(figure, on, of)) for figure, on in columns), _cost(results, of)])
    head = ["", "uniform: MAE", "uniform: Spearman", "uniform: class agreement", "uniform: second's Spearman"]
    return _table([*head, "natural: MAE", "natural: Spearman", "uniform: made per accepted item"], rows)


def _cost(results: Results, of: str) -> str:
    cost, accepted = results.find("cost", "uniform", of), results.find("accepted", "uniform", of)
    return f"{cost.value:.1f} ({accepted.value:.0%} accepted)" if cost and accepted else ""


def _levels(results: Results) -> str:
    known = results.find("class_agreement", "natural", "reals") is not None
    # Reals stand beside fakes of the same mix of classes: at a level, too, a common class agrees more than a rare one.
    mix, mixed = ("matched", "") if results.levels("mean", "matched") else ("uniform", ", every class equally often")
    rows = [
        [
            f"{row.level:.2f}",
            _full(row),
            *(_short(_at(results, figure, "uniform", row)) for figure in ("bias", "mae", "class_agreement")),
            _short(_at(results, "class_agreement", "matched", row)),
            _full(reals := _at(results, "class_agreement", mix, row, "reals")),
            str(reals.count) if reals else "0" if known else "",
            _short(_at(results, "second_mean", "uniform", row)),
        ]
        for row in results.levels("mean", "uniform")
    ]
    head = [
        "in",
        "mean out",
        "bias",
        "MAE",
        "class agreement, every class equally often",
        "class agreement, given labels of the level's reals",
        f"class agreement of the level's reals{mixed}",
        "number of the level's reals",
        "second: mean out",
    ]
    return _table(head, rows)


def _classes(results: Results) -> str:
    names = results.about["class_names"]
    classes = sorted({row.cls for row in results.rows if row.cls is not None and row.on == "uniform"})
    figures = ("mae", "bias", "spearman", "class_agreement", "second_spearman")
    rows = []
    for cls in classes:
        fakes = [_short(results.find(figure, "uniform", cls=cls)) for figure in figures]
        energy = _short(results.find("energy_ratio", "natural", cls=cls))
        reals = _short(results.find("class_agreement", "uniform", "reals", cls=cls))
        rows.append([names[cls], *fakes, reals, energy])
    head = ["class, uniform", "MAE", "bias", "Spearman", "class agreement", "second: Spearman"]
    head += ["reals: class agreement", "energy ratio"]
    return _table(head, rows)


def _quality(results: Results) -> str:
    rows = []
    overall = [r for of in ("fakes", "reals") if (r := results.find("fid", "natural", of))]
    for row in overall + [r for of in ("fakes", "reals") for r in results.levels("fid", "matched", of)]:
        where = {"on": row.on, "of": row.of, "level": row.level}
        shown = [_short(results.find(figure, **where)) for figure in _QUALITY]  # type: ignore[arg-type]
        rows.append(["all" if row.level is None else f"{row.level:.2f}", row.of, str(row.count), *shown])
    return _table(["level", "of", "items", "FID", "KID", *_QUALITY[2:]], rows)


def _mix(results: Results) -> str:
    rows = []
    for row in results.levels("share_none", "matched"):
        cells = [f"{row.level:.2f}"]
        for kind, _ in _KINDS:
            for prefix, of in (("recorded", "reals"), ("share", "reals"), ("share", "fakes")):
                cells.append(_short(_at(results, f"{prefix}_{kind}", "matched", row, of), 2))
        rows.append(cells)
    head = [f"{name}: {who}" for _, name in _KINDS for who in ("reals, recorded", "reals", "fakes")]
    return _table(["level", *head], rows)


def _at(results: Results, figure: str, on: str, row: Row, of: str = "fakes") -> Row | None:
    return results.find(figure, on, of, row.level)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in which nothing is known are left out."""
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    if not rows:
        return ""
    marks = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells[i] for i in kept) + " |" for cells in (head, marks, *rows))


def _full(row: Row | None) -> str:
    if row is None:
        return ""
    interval = "" if math.isnan(row.low) else f" ({_number(row.low)} to {_number(row.high)})"
    return _number(row.value) + interval


def _short(row: Row | None, digits: int = 3) -> str:
    return "" if row is None else _number(row.value, digits)


def _number(value: float | None, digits: int = 3) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{value:.{digits}f}"
