"""From rows to one summary per problem and method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from riemopt_bench import registry
from riemopt_bench.interface import Method, Problem, Skip
from riemopt_bench.stats import (
    Quartiles,
    Ranks,
    Ratio,
    average_ranks,
    complete_table,
    paired_ratio,
    quartiles,
    rates_within,
    time_to_target,
)
from riemopt_bench.train.store import Row

RIEMOPT, REFERENCE = "riemopt", "parametrize"


@dataclass(frozen=True)
class Cell:
    """All repetitions of one method on one problem."""

    problem: Problem
    method: Method
    rows: Sequence[Row]

    @cached_property
    def ok(self) -> list[Row]:
        """The rows of the runs that ended well."""
        return [row for row in self.rows if row["status"] == "ok"]

    @property
    def failed(self) -> int:
        """How many runs failed."""
        return len(self.rows) - len(self.ok)

    @property
    def lr(self) -> float:
        """The tuned learning rate."""
        return float(self.rows[0]["lr"])

    @property
    def edge(self) -> bool:
        """Whether the tuned learning rate is the smallest or largest that was tried."""
        return bool(self.rows[0].get("tuning", {}).get("edge"))

    @cached_property
    def metric(self) -> Quartiles:
        """Final metric over the repetitions; a failure is the worst value there is."""
        worst = -math.inf if self.problem.higher_is_better else math.inf
        return quartiles([row["trace"]["metric"][-1] for row in self.ok] + [worst] * self.failed)

    @property
    def score(self) -> float:
        """The median metric to rank by: lower is better, and differences of rounding are none."""
        sign = -1 if self.problem.higher_is_better else 1
        return sign * self.problem.resolved(self.metric.median)

    @cached_property
    def step_times(self) -> dict[int, float]:
        """Median seconds per step (total) of each repetition."""
        return {row["repetition"]: step_quartiles(row, "total").median for row in self.ok}

    def seconds(self, part: str) -> Quartiles:
        """Quartiles over repetitions of the median step time; `part` as in `step_quartiles`."""
        return quartiles([step_quartiles(row, part).median for row in self.ok])

    @cached_property
    def to_target(self) -> list[float]:
        """Clock seconds to the target per repetition; inf where it was not reached."""
        return [time_to(row, self.problem) for row in self.rows]

    @cached_property
    def steps_to_target(self) -> list[float]:
        """Steps to the target per repetition, to the recorded one; inf where it was not reached."""
        return [steps_to(row, self.problem) for row in self.rows]

    def bytes(self, what: str) -> float:
        """Median of `held` or `peak` live tensor bytes."""
        return quartiles([row["memory"][what] for row in self.ok]).median

    def violation(self, which: str) -> tuple[float, float]:
        """Largest over all recorded steps, weights and repetitions; and largest at the end."""
        traces = [v for row in self.ok for v in row["trace"][f"{which}_violation"].values()]
        if not traces:
            return math.nan, math.nan
        return max(max(t) for t in traces), max(t[-1] for t in traces)

    def original_norms(self) -> dict[str, tuple[float, float]]:
        """Per weight: median norm of `original` at the start and at the end."""
        names = self.ok[0]["trace"]["original_norm"] if self.ok else {}
        series = {n: [row["trace"]["original_norm"][n] for row in self.ok] for n in names}
        return {
            n: (quartiles([s[0] for s in all_]).median, quartiles([s[-1] for s in all_]).median)
            for n, all_ in series.items()
        }


def step_quartiles(row: Row, part: str) -> Quartiles:
    """Quartiles over the steps of one run; `part` is total, forward_backward or optimizer."""
    trace = row["trace"]
    if part == "total":
        pairs = zip(trace["forward_backward"], trace["optimizer"], strict=True)
        return quartiles([a + b for a, b in pairs])
    return quartiles(trace[part])


def time_to(row: Row, problem: Problem) -> float:
    """Clock seconds until the target of one run; inf for a failure."""
    if row["status"] != "ok":
        return math.inf
    return time_to_target(row["trace"]["elapsed"], row["trace"]["metric"], problem.reached)


def steps_to(row: Row, problem: Problem) -> float:
    """Steps until the target of one run, to the recorded one; inf for a failure."""
    if row["status"] != "ok":
        return math.inf
    return time_to_target(row["trace"]["step"], row["trace"]["metric"], problem.reached)


@dataclass(frozen=True)
class ProblemResults:
    """One problem: its cells in the methods' order, and the methods that were left out.

    `trials[method][lr]` is what learning rates were chosen by, of the method or of the one whose
    tuning it shares: the median over the trials, inf for a failure.
    """

    problem: Problem
    cells: dict[str, Cell]
    left_out: list[tuple[Method, Skip]]
    trials: dict[str, dict[float, float]] = field(default_factory=dict)

    def sensitivity(self, method: str, factor: float = 2.0) -> tuple[int, int] | None:
        """How many learning rates end within `factor` of the method's best, and of how many.

        Values below the problem's resolution count as equal. None for a method without trials.
        """
        found = self.trials.get(method)
        if not found:
            return None
        return rates_within(
            {lr: self.problem.resolved(value) for lr, value in found.items()}, factor
        ), len(found)

    @property
    def constrained(self) -> list[Cell]:
        """The cells of methods that keep the constraints, with at least one run that ended well."""
        return [c for c in self.cells.values() if c.method.constrained and c.ok]

    @cached_property
    def reference(self) -> Cell | None:
        """The parametrize variant with the lowest median step time: the one to compare against."""
        return self.fastest([c for c in self.constrained if c.method.family == REFERENCE])

    @staticmethod
    def fastest(cells: Iterable[Cell]) -> Cell | None:
        """The cell with the lowest median step time."""
        return min(cells, key=lambda c: c.seconds("total").median, default=None)

    def best(self, cells: Iterable[Cell]) -> Cell | None:
        """The cell with the best median metric."""
        return min(cells, key=lambda c: c.score, default=None)

    def ratio(self, cell: Cell) -> Ratio | None:
        """Step time over that of the reference."""
        if self.reference is None or cell is self.reference:
            return None
        return paired_ratio(cell.step_times, self.reference.step_times)

    @property
    def budget(self) -> dict[str, Any]:
        """The budget of the runs."""
        budget: dict[str, Any] = next(iter(self.cells.values())).rows[0]["budget"]
        return budget


@dataclass(frozen=True)
class Results:
    """Everything that the page shows."""

    problems: list[ProblemResults]
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """All measured rows that the page is made of."""
        return [row for p in self.problems for c in p.cells.values() for row in c.rows]

    def ranks(self, alpha: float = 0.05) -> Ranks | None:
        """Ranks of the constrained methods by their final metric, with a critical difference.

        Over problems that all of the ranked methods were run on; a method most of whose runs
        failed is last. None where there is too little to rank.
        """
        by_problem = {p.problem.name: p for p in self.problems}
        ran: dict[str, set[str]] = {}
        for name, p in by_problem.items():
            for method, cell in p.cells.items():
                if cell.method.constrained:
                    ran.setdefault(method, set()).add(name)
        methods, problems = complete_table(ran)
        return average_ranks(
            {m: [by_problem[p].cells[m].score for p in problems] for m in methods}, alpha
        )

    @property
    def failures(self) -> list[Row]:
        """The rows of runs that failed."""
        return [row for row in self.rows if row["status"] != "ok"]


def collect(rows: Sequence[Row], prefer: Iterable[str] = ()) -> Results:
    """Group the measured rows. `prefer` holds keys of the runs just asked for.

    A store may hold several measurements of the same thing: with an older version, budget or
    learning rate. Of each problem and method only those with the newest code and settings count,
    and of each repetition the newest row.
    """
    wanted = set(prefer)
    measured = [row for row in rows if row["phase"] == "run"]
    measured.sort(key=lambda row: row["key"] in wanted)  # stable: wanted rows count as newest
    known_problems, known_methods = registry.problems(), registry.methods()
    notes, result = [], []
    unknown = {
        name
        for row in measured
        for name, known in ((row["problem"], known_problems), (row["method"], known_methods))
        if name not in known
    }
    if unknown:
        notes.append(f"Rows of problems or methods that no longer exist: {sorted(unknown)}.")
    for problem in known_problems.values():
        cells = {}
        for method in known_methods.values():
            own = _newest(measured, problem.name, method.name)
            if own:
                cells[method.name] = Cell(problem, method, own)
        if cells:
            skips = ((m, m.skip(problem)) for m in known_methods.values())
            left_out = [(m, skip) for m, skip in skips if skip is not None]
            trials = {name: _trials(rows, cell) for name, cell in cells.items()}
            result.append(ProblemResults(problem, cells, left_out, trials))
            notes.extend(_warnings(result[-1]))
    results = Results(result, notes)
    notes.extend(_busy(results.rows))
    return results


def _newest(rows: Sequence[Row], problem: str, method: str) -> list[Row]:
    own = [row for row in rows if (row["problem"], row["method"]) == (problem, method)]
    if not own:
        return []
    same = [row for row in own if row["cell"] == own[-1]["cell"]]
    return [row for _, row in sorted({row["repetition"]: row for row in same}.items())]


def _trials(rows: Sequence[Row], cell: Cell) -> dict[float, float]:
    """The newest trials of a method, where its runs took place: those with one budget."""
    method = cell.method.tuned_as or cell.method.name
    trials = [
        row
        for row in rows
        if (row["phase"], row["problem"], row["method"]) == ("tune", cell.problem.name, method)
        and row.get("placement") == cell.rows[0].get("placement")
    ]
    newest = {
        (row["lr"], row["repetition"]): row.get("selection", math.inf)
        for row in trials
        if row["budget"] == trials[-1]["budget"]
    }
    values: dict[float, list[float]] = {}
    for (lr, _), selection in sorted(newest.items()):
        values.setdefault(lr, []).append(selection)
    return {lr: quartiles(found).median for lr, found in values.items()}


def _warnings(results: ProblemResults) -> list[str]:
    """What would make the comparison unfair, found in the rows themselves."""
    rows = [row for cell in results.cells.values() for row in cell.rows]
    title = results.problem.title
    notes = []
    if len({str(row["budget"]) for row in rows}) > 1:
        notes.append(f"{title}: the methods were run with different budgets.")
    if len({len(cell.rows) for cell in results.cells.values()}) > 1:
        notes.append(f"{title}: the methods have different numbers of repetitions.")
    starts: dict[int, set[str]] = {}
    for row in rows:
        if "start" in row:
            starts.setdefault(row["repetition"], set()).add(row["start"])
    if any(len(found) > 1 for found in starts.values()):
        notes.append(f"{title}: runs of the same repetition had different data or starts.")
    machines = {
        tuple(row["environment"].get(k) for k in ("cpu", "torch", "threads"))
        for row in rows
        if "environment" in row and row["status"] == "ok"
    }
    if len(machines) > 1:
        notes.append(f"{title}: the runs come from different machines, threads or torch versions.")
    return notes


def _busy(rows: Sequence[Row]) -> list[str]:
    """Whether other work took the processor while runs were measured."""
    environments = [row["environment"] for row in rows if "environment" in row]
    loads = [(e.get("load") or 0.0, e.get("cores") or 1) for e in environments]
    busy = [load for load, cores in loads if load > cores + 1]
    if not busy:
        return []
    return [
        f"{len(busy)} of {len(rows)} runs began while the machine had more work than cores (load "
        f"up to {max(busy)} on {loads[0][1]} cores): times may be disturbed."
    ]
