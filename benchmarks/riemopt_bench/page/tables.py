"""The tables of the page, and `results.csv`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from riemopt_bench.page.numbers import NOTHING, milliseconds, ratio_text, significant, size
from riemopt_bench.page.wording import FREE, OWN, compare, metric_text
from riemopt_bench.train.results import (
    REFERENCE,
    RIEMOPT,
    Cell,
    ProblemResults,
    Results,
    step_quartiles,
    steps_to,
    time_to,
)


@dataclass(frozen=True)
class Line:
    """One line of a problem's table: texts, the values to sort by, and marks for the best."""

    title: str
    family: str
    note: str
    texts: Sequence[str]
    values: Sequence[float]
    best: Sequence[bool]


@dataclass(frozen=True)
class GlanceEntry:
    """A result in the table over all problems, who had it, and whether none is clearly better."""

    text: str
    note: str
    value: float
    best: bool


FIRST_TABLE = 7  # so many columns make the table of results and times, the others the second


def header(p: ProblemResults) -> list[str]:
    """Column titles that belong to the texts of `table`."""
    return [
        f"{p.problem.metric}, median [quartiles]",
        "ms per step, median [quartiles]",
        "forward + backward, ms",
        "optimizer, ms",
        "time ÷ parametrize [95%]",
        "time to target",
        "learning rate",
        "bytes held",
        "bytes at peak",
        "stored weight off by, largest",
        "at the end",
        "used weight off by, largest",
        "at the end",
    ]


def table(p: ProblemResults) -> list[Line]:
    """One row per method; the best value among constrained methods is marked per column."""
    numbers = {name: _numbers(cell) for name, cell in p.cells.items()}
    eligible = [cell.method.name for cell in p.constrained]
    sign = [-1 if p.problem.higher_is_better else 1, *[1] * 5]
    best = [
        min((s * numbers[name][i] for name in eligible), default=math.nan)
        for i, s in enumerate(sign)
    ]
    rows = []
    for name, cell in p.cells.items():
        marks = [name in eligible and s * numbers[name][i] == best[i] for i, s in enumerate(sign)]
        metric, total, forward, optimizer, held, peak = marks
        notes = ["reference"] if cell is p.reference else []
        if cell.failed:
            notes.append(f"{cell.failed} of {len(cell.rows)} failed")
        if not cell.method.constrained:
            notes.append("not constrained")
        marked = [metric, total, forward, optimizer, *[False] * 3, held, peak, *[False] * 4]
        texts, values = _texts(p, cell), _values(p, cell)
        note = ", ".join(notes)
        rows.append(Line(cell.method.title, cell.method.family, note, texts, values, marked))
    return rows


def _numbers(cell: Cell) -> list[float]:
    parts = [cell.seconds(part).median for part in ("total", "forward_backward", "optimizer")]
    return [
        cell.problem.resolved(cell.metric.median),
        *parts,
        cell.bytes("held"),
        cell.bytes("peak"),
    ]


def _texts(p: ProblemResults, cell: Cell) -> list[str]:
    q1, median, q3 = (metric_text(p, value) for value in cell.metric)
    ms = [significant(1e3 * value) for value in cell.seconds("total")]
    reached = [t for t in cell.to_target if math.isfinite(t)]
    target = f"{significant(sorted(cell.to_target)[(len(cell.to_target) - 1) // 2])} s"
    if not reached:
        target = "not reached"
    elif len(reached) < len(cell.to_target):
        target = f"{significant(min(reached))} s at best; {len(reached)} of {len(cell.to_target)}"
    is_reference = cell is p.reference
    return [
        f"{median} [{q1}, {q3}]",
        f"{ms[1]} [{ms[0]}, {ms[2]}]",
        significant(1e3 * cell.seconds("forward_backward").median),
        significant(1e3 * cell.seconds("optimizer").median),
        "1" if is_reference else ratio_text(p.ratio(cell)),
        target,
        f"{cell.lr:g}" + (" (edge of grid)" if cell.edge else ""),
        size(cell.bytes("held")),
        size(cell.bytes("peak")),
        *(f"{value:.1e}" for which in ("stored", "used") for value in cell.violation(which)),
    ]


def _values(p: ProblemResults, cell: Cell) -> list[float]:
    """What each text of the line says, as one number: what a column is sorted by."""
    metric, total, forward, optimizer, held, peak = _numbers(cell)
    ratio = p.ratio(cell)
    factor = 1.0 if cell is p.reference else math.nan if ratio is None else ratio.value
    target = sorted(cell.to_target)[(len(cell.to_target) - 1) // 2]
    off = (value for which in ("stored", "used") for value in cell.violation(which))
    return [metric, total, forward, optimizer, factor, target, cell.lr, held, peak, *off]


GLANCE: dict[str, Callable[[Cell], bool]] = {
    "riemopt Adam": lambda c: c.method.name == OWN,
    "best of riemopt": lambda c: c.method.family == RIEMOPT,
    "best of parametrize": lambda c: c.method.family == REFERENCE,
    "best of other libraries": lambda c: (
        c.method.constrained and c.method.family not in (RIEMOPT, REFERENCE)
    ),
    "not constrained": lambda c: c.method.name == FREE,
}
"""The columns of the table over all problems: which cells each of them takes its best from."""


def glance(results: Results) -> list[tuple[ProblemResults, list[GlanceEntry]]]:
    """For each problem the best results of kinds of methods, with time per step."""
    lines = []
    for p in results.problems:
        ok = [c for c in p.cells.values() if c.ok]
        chosen = [p.best(filter(kind, ok)) for kind in GLANCE.values()]
        best = p.best(c for c in chosen if c is not None and c.method.constrained)
        lines.append((p, [_glance_entry(p, cell, best) for cell in chosen]))
    return lines


def _glance_entry(p: ProblemResults, cell: Cell | None, best: Cell | None) -> GlanceEntry:
    if cell is None:
        return GlanceEntry(NOTHING, "", math.nan, False)
    equal = best is not None and compare(p, cell.metric, best.metric) == "no clear difference"
    who = "" if cell.method.name in (OWN, FREE) else f"{cell.method.title}, "
    return GlanceEntry(
        metric_text(p, cell.metric.median),
        f"{who}{milliseconds(cell.seconds('total').median)}",
        cell.metric.median,
        equal and cell.method.constrained,
    )


def write_csv(lines: list[dict[str, Any]], path: Path) -> None:
    """Write `run_lines`."""
    pd.DataFrame(lines).to_csv(path, index=False)


def run_lines(results: Results) -> list[dict[str, Any]]:
    """One line per measured run, without its curves."""
    return [_run_line(p, row) for p in results.problems for c in p.cells.values() for row in c.rows]


def _run_line(p: ProblemResults, row: dict[str, Any]) -> dict[str, Any]:
    names = ("problem", "method", "repetition", "seed", "lr", "status")
    line = {name: row[name] for name in names}
    budget = row["budget"]
    line |= {name: budget.get(name) for name in ("steps", "seconds", "schedule", "threads")}
    line |= row.get("placement", {}) | {"error": row.get("error", "")}
    line["lr_at_edge_of_grid"] = row.get("tuning", {}).get("edge")
    if row["status"] == "ok":
        trace = row["trace"]
        line["metric"] = trace["metric"][-1]
        line["loss"] = trace["loss"][-1]
        for part in ("total", "forward_backward", "optimizer"):
            for name, value in step_quartiles(row, part)._asdict().items():
                line[f"{part}_seconds_{name}"] = value
        line["seconds_to_target"] = time_to(row, p.problem)
        line["steps_to_target"] = steps_to(row, p.problem)
        line |= {f"bytes_{what}": count for what, count in row["memory"].items()}
        for which in ("stored", "used"):
            series = trace[f"{which}_violation"].values()
            line[f"{which}_violation_largest"] = max(max(values) for values in series)
            line[f"{which}_violation_last"] = max(values[-1] for values in series)
        for name, norms in trace["original_norm"].items():
            line[f"original_norm_first:{name}"] = norms[0]
            line[f"original_norm_last:{name}"] = norms[-1]
    line |= row.get("environment", {})
    return line
