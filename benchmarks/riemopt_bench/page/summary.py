"""The data beside the page, for other programs, and a summary in Markdown, for a README.

`results.parquet` has a row a run, `curves.parquet` a row a record, `results.md` the answers and the
best of each kind of method on each problem.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow  # noqa: F401  (pandas writes Parquet with it; missed here, before anything is run)

from riemopt_bench.environment import write_between
from riemopt_bench.page.numbers import ratio_text
from riemopt_bench.page.tables import GLANCE, GlanceEntry, glance
from riemopt_bench.page.wording import OWN, Verdict
from riemopt_bench.train.results import ProblemResults, Results

MARKS = ("<!-- results -->", "<!-- /results -->")
SERIES = ("stored_violation", "used_violation", "original_norm")


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


def markdown(results: Results, verdicts: Sequence[Verdict]) -> str:
    """The page's answers, then a table: for each problem the best of each kind of method."""
    lines = []
    for verdict in verdicts:
        lines += [f"**{verdict.question}**", "", *(f"* {s}" for s in verdict.sentences), ""]
    columns = " | ".join(GLANCE)
    lines += [
        f"| problem | {columns} | time ÷ parametrize |",
        "| --- |" + " --- |" * (len(GLANCE) + 1),
        *(_line(p, entries) for p, entries in glance(results)),
    ]
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


def _line(p: ProblemResults, entries: Sequence[GlanceEntry]) -> str:
    direction = "higher" if p.problem.higher_is_better else "lower"
    metric = p.problem.metric.replace("|", "\\|")
    cells = [f"{e.text} ({e.note})" if e.note else e.text for e in entries]
    own = p.cells.get(OWN)
    ratio = p.ratio(own) if own is not None and own.ok else None
    head = f"{p.problem.title}: {metric} ({direction} is better)"
    return f"| {' | '.join([head, *cells, ratio_text(ratio)])} |"


def write_markdown(results: Results, verdicts: Sequence[Verdict], path: Path) -> None:
    """Write the summary as a file of its own."""
    path.write_text(
        f"{markdown(results, verdicts)}\n\nOf “best of” the method with the best median result "
        "is named. The last column: the time per step of riemopt Adam over that of the fastest "
        "parametrize, with a 95% interval.\n",
        encoding="utf-8",
    )


def write_readme(summary: Path, readme: Path) -> None:
    """Put a written summary between the marks of a README.

    Raises:
        ValueError: the README does not have the two lines.
    """
    write_between(readme, MARKS, summary.read_text(encoding="utf-8").rstrip("\n"))
