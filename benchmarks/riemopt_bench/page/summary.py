"""The data beside the page, for other programs, and a summary in Markdown, for a README.

`results.parquet` has a row a run, `curves.parquet` a row a record, `results.md` the best of every
family on every problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow  # noqa: F401  (pandas writes Parquet with it; missed here, before anything is run)

from riemopt_bench.environment import write_between
from riemopt_bench.page.numbers import NOTHING, ratio_text, significant
from riemopt_bench.page.wording import metric_text
from riemopt_bench.train.results import REFERENCE, RIEMOPT, Cell, ProblemResults, Results

MARKS = ("<!-- results -->", "<!-- /results -->")
SERIES = ("stored_violation", "used_violation", "original_norm")
# The columns of the summary: which of the methods a cell is the best of.
COLUMNS: tuple[tuple[str, Callable[[Cell], bool]], ...] = (
    ("riemopt", lambda c: c.method.constrained and c.method.family == RIEMOPT),
    ("parametrize", lambda c: c.method.constrained and c.method.family == REFERENCE),
    (
        "other libraries",
        lambda c: c.method.constrained and c.method.family not in (RIEMOPT, REFERENCE),
    ),
    ("no constraint", lambda c: not c.method.constrained),
)


def write_parquet(lines: list[dict[str, Any]], results: Results, directory: Path) -> None:
    """Write `results.parquet`, of those lines, and `curves.parquet`."""
    pd.DataFrame(lines).to_parquet(directory / "results.parquet", index=False)
    curves = pd.DataFrame(_records(results), columns=None)
    curves.to_parquet(directory / "curves.parquet", index=False)


def _records(results: Results) -> Iterator[dict[str, Any]]:
    """One line per record of a run; violations and norms are the largest over its weights."""
    for row in results.rows:
        if row["status"] != "ok":
            continue
        head = {name: row[name] for name in ("problem", "method", "repetition", "lr")}
        trace = row["trace"]
        for i, step in enumerate(trace["step"]):
            record = {name: trace[name][i] for name in ("elapsed", "loss", "metric")}
            for name in SERIES:
                values = [series[i] for series in trace.get(name, {}).values()]
                record[name] = max(values, default=math.nan)
            yield head | {"step": step} | record


def markdown(results: Results) -> str:
    """A table: for each problem and family the best result and its time per step."""
    lines = [
        "| problem | " + " | ".join(name for name, _ in COLUMNS) + " | time ÷ parametrize |",
        "| --- |" + " --- |" * (len(COLUMNS) + 1),
    ]
    lines += [_line(p) for p in results.problems]
    ranks = results.ranks()
    if ranks is not None:
        order = ", ".join(f"{name} {rank:.1f}" for name, rank in ranks.average.items())
        lines += [
            "",
            f"Average rank over {ranks.problems} problems, of the methods that were run on all of "
            f"them (1 is best; two differ at the level of 5% from "
            f"{ranks.critical_difference:.1f} on): {order}.",
        ]
    return "\n".join(lines)


def _line(p: ProblemResults) -> str:
    best = [p.best(c for c in p.cells.values() if belongs(c)) for _, belongs in COLUMNS]
    ours, theirs = best[:2]
    direction = "higher" if p.problem.higher_is_better else "lower"
    title = f"{p.problem.title}: {p.problem.metric} ({direction} is better)"
    ratio = p.ratio(ours) if ours is not None and theirs is not None else None
    return f"| {title} | " + " | ".join(map(_text(p), best)) + f" | {ratio_text(ratio)} |"


def _text(p: ProblemResults) -> Callable[[Cell | None], str]:
    def text(cell: Cell | None) -> str:
        if cell is None:
            return NOTHING
        median = cell.metric.median
        if not math.isfinite(median):
            return f"{cell.method.name}: failed"
        milliseconds = significant(1e3 * cell.seconds("total").median)
        return f"{metric_text(p, median)}, {milliseconds} ms a step ({cell.method.name})"

    return text


def write_markdown(results: Results, path: Path) -> None:
    """Write the summary as a file of its own."""
    path.write_text(
        "Of every family the method with the best median result, with the median time per step of "
        "that method. The last column: riemopt's time per step over that of the fastest "
        f"parametrize, with a 95% interval.\n\n{markdown(results)}\n",
        encoding="utf-8",
    )


def write_readme(summary: Path, readme: Path) -> None:
    """Put a written summary between the marks of a README.

    Raises:
        ValueError: the README does not have the two lines.
    """
    write_between(readme, MARKS, summary.read_text(encoding="utf-8").rstrip("\n"))
