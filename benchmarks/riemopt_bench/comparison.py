"""`riemopt bench compare A B`: the same problems and methods, measured twice.

Two versions, two machines, two cards: what both directories hold is put side by side. Repetitions
have the same seeds, and so the same data and starts; times are paired by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riemopt_bench.page.numbers import ratio_text, significant
from riemopt_bench.page.wording import metric_text
from riemopt_bench.stats import paired_ratio
from riemopt_bench.train.results import Cell, ProblemResults, Results, collect
from riemopt_bench.train.store import Store

FACTS = ("riemopt", "torch", "cpu", "gpu", "threads", "python")
"""What is said of two directories where they differ."""


@dataclass(frozen=True)
class Pair:
    """One method on one problem, in both directories."""

    problem: str
    method: str
    metric: tuple[str, str]
    milliseconds: tuple[str, str]
    ratio: str
    note: str


@dataclass(frozen=True)
class Comparison:
    """What both directories hold, and what differs between them."""

    pairs: list[Pair]
    facts: dict[str, tuple[str, str]]
    only: tuple[list[str], list[str]]


def compare(first: Path, second: Path) -> Comparison:
    """Put the newest runs of two directories side by side.

    The ratio is the second's time per step over the first's, with a paired bootstrap interval.
    """
    one, two = (collect(Store(directory).rows()) for directory in (first, second))
    cells = [dict(_cells(results)) for results in (one, two)]
    shared = [key for key in cells[0] if key in cells[1]]
    only = tuple(
        sorted(" on ".join(reversed(key)) for key in own.keys() - other.keys())
        for own, other in (cells, cells[::-1])
    )
    pairs = [_pair(*cells[0][key], cells[1][key][1]) for key in shared]
    return Comparison(pairs, _facts(one, two), (only[0], only[1]))


def _cells(results: Results) -> Iterator[tuple[tuple[str, str], tuple[ProblemResults, Cell]]]:
    for p in results.problems:
        for name, cell in p.cells.items():
            yield (p.problem.name, name), (p, cell)


def _pair(p: ProblemResults, a: Cell, b: Cell) -> Pair:
    notes = []
    if a.rows[0]["budget"] != b.rows[0]["budget"]:
        notes.append("other budgets")
    if a.rows[0].get("placement") != b.rows[0].get("placement"):
        notes.append("other device or dtype")
    if a.lr != b.lr:
        notes.append(f"lr {a.lr:g} and {b.lr:g}")
    failed = a.failed, b.failed
    if any(failed):
        notes.append(f"failed: {failed[0]} and {failed[1]}")
    times = [cell.seconds("total").median for cell in (a, b)]
    return Pair(
        p.problem.name,
        a.method.name,
        (metric_text(p, a.metric.median), metric_text(p, b.metric.median)),
        (significant(1e3 * times[0]), significant(1e3 * times[1])),
        ratio_text(paired_ratio(b.step_times, a.step_times)),
        "; ".join(notes),
    )


def _facts(one: Results, two: Results) -> dict[str, tuple[str, str]]:
    """What is not the same of the machines and versions."""
    found = {}
    for fact in FACTS:
        values = tuple(
            ", ".join(dict.fromkeys(str(e[fact]) for e in _environments(results) if fact in e))
            for results in (one, two)
        )
        if values[0] != values[1]:
            found[fact] = (values[0], values[1])
    return found


def _environments(results: Results) -> list[dict[str, Any]]:
    return [row["environment"] for row in results.rows if "environment" in row]
