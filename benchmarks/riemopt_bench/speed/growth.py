"""How the time of a step grows: with the columns of a matrix, and with the number of matrices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from riemopt_bench.speed.results import SpeedResults, slope
from riemopt_bench.speed.workloads import Workload, matrix, separate

METHODS = ("riemopt-adam", "floor")
_AT_END = 3  # points of the second exponent


@dataclass(frozen=True)
class Study:
    """Workloads of growing size."""

    title: str
    variable: str
    points: tuple[tuple[int, Workload], ...]


def studies(quick: bool) -> tuple[Study, ...]:
    """p = 16 to 2048 columns of 4096 rows; 1 to 10,000 separate 16×16 matrices."""
    rows = 512 if quick else 4096
    columns = [2**k for k in range(4, 8 if quick else 12)]
    counts = [10**k for k in range(3 if quick else 5)]
    return (
        Study(
            f"one matrix with {rows:,} rows",
            "columns",
            tuple((p, matrix(rows, p)) for p in columns),
        ),
        Study(
            "separate 16×16 matrices",
            "number of matrices",
            tuple((k, separate(k, 16)) for k in counts),
        ),
    )


def fit(results: SpeedResults, wanted: Iterable[Study]) -> list[dict[str, Any]]:
    """Medians by size, with exponents over all sizes and over the largest three."""
    return [
        {
            "title": study.title,
            "variable": study.variable,
            "curves": {method: _curve(results, study, method) for method in METHODS},
        }
        for study in wanted
    ]


def _curve(results: SpeedResults, study: Study, method: str) -> dict[str, Any]:
    sizes, milliseconds = [], []
    for size, workload in study.points:
        result = results.find(workload.name)
        row = result.row(method) if result else None
        if row is not None and row.measured:
            sizes.append(size)
            milliseconds.append(1e3 * row.quartiles.median)
    return {
        "size": sizes,
        "milliseconds": milliseconds,
        "exponent": _exponent(sizes, milliseconds, 2),
        "exponent_at_end": _exponent(sizes[-_AT_END:], milliseconds[-_AT_END:], _AT_END),
    }


def _exponent(sizes: list[int], milliseconds: list[float], fewest: int) -> float | None:
    return slope(sizes, milliseconds) if len(sizes) >= fewest else None
