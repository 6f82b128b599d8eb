"""The figures of merit of one run as a short Markdown table."""

from __future__ import annotations

from typing import Any


def markdown_table(results: dict[str, Any]) -> str:
    """A table of `report.run`'s results: natural and uniform MSP side by side, then the uniform grid level by level."""
    columns = [(split, results[split]) for split in ("natural", "uniform") if split in results]
    name = results.get("uncertainty", "MSP")
    lines = [
        f"Snapshot {results['snapshot']} of {results['run']} ({_number(results['kimg'], 1)} kimg), "
        f"seed {results['seed']}. {name} in is what was asked of the generator, {name} out what the classifier says.",
        "",
        "| | " + " | ".join(f"{split} {name}" for split, _ in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    rows = {
        "generated items": lambda f: str(f["count"]),
        "Spearman(in, out), 95 % interval": lambda f: _with_interval(f, "spearman"),
        "mean abs(out - in), 95 % interval": lambda f: _with_interval(f, "mae"),
        "mean(out - in)": lambda f: _number(f["bias"], 3, sign=True),
        "class agreement on fakes": lambda f: _number(f["class_agreement"], 3),
    }
    lines += [f"| {label} | " + " | ".join(show(f) for _, f in columns) + " |" for label, show in rows.items()]
    if "reals" in results:
        reals = results["reals"]
        lines.append("")
        lines.append(
            f"Class agreement of the classifier on the {reals['count']} real items: "
            f"{_number(reals['class_agreement'], 3)}."
        )
    lines += ["", f"| {name} in | items | mean out | median out | 10 to 90 % |", "| ---: | ---: | ---: | ---: | --- |"]
    lines += [
        f"| {row['level']:.2f} | {row['count']} | {row['mean']:.3f} | {row['median']:.3f} | "
        f"{row['q10']:.3f} to {row['q90']:.3f} |"
        for row in results["uniform"]["per_level"]
    ]
    return "\n".join(lines) + "\n"


def _with_interval(figures: dict[str, Any], name: str) -> str:
    low, high = figures[f"{name}_95"]
    return f"{_number(figures[name], 3)} ({_number(low, 3)} to {_number(high, 3)})"


def _number(value: float | None, digits: int, sign: bool = False) -> str:
    return "undefined" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"
