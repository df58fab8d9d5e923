"""All runs of a suite: tune on other seeds, then measure in shuffled order, one process each."""

from __future__ import annotations

import math
import os
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path

from rich.console import Console

from riemopt_bench import registry
from riemopt_bench.interface import Budget, Method, Problem, Skip
from riemopt_bench.processes import Child
from riemopt_bench.progress import Ticker
from riemopt_bench.train.store import Row, Store
from riemopt_bench.train.suites import Suite
from riemopt_bench.train.worker import RunSpec, work


@dataclass(frozen=True)
class Plan:
    """What is to be run: the suite, narrowed to some problems and methods."""

    suite: Suite
    problems: tuple[Problem, ...]
    methods: tuple[Method, ...]
    repetitions: int

    def pairs(self) -> list[tuple[Problem, Method]]:
        """Every problem with every method that applies to it."""
        return [(p, m) for p in self.problems for m in self.methods if m.skip(p) is None]

    def left_out(self) -> list[tuple[Problem, Method, Skip]]:
        """Every pair that is not run, with the reason."""
        skips = [(p, m, m.skip(p)) for p in self.problems for m in self.methods]
        return [(p, m, skip) for p, m, skip in skips if skip is not None]

    def budget(self, problem: Problem) -> Budget:
        """What one run of a problem of the plan may spend."""
        budget = self.suite.budget(problem)
        assert budget is not None
        return budget

    def tuned(self, method: Method) -> Method:
        """The method whose trials decide the learning rate of `method`."""
        known = registry.methods() | {m.name: m for m in self.methods}
        return known[method.tuned_as or method.name]

    def tuning_specs(self) -> list[RunSpec]:
        """One trial per learning rate and tuning repetition; shared where the arithmetic is."""
        wanted = {(p.name, self.tuned(m).name): (p, self.tuned(m)) for p, m in self.pairs()}
        return [
            RunSpec("tune", p.name, m.name, lr, repetition, self.budget(p))
            for p, m in wanted.values()
            for lr in m.grid
            for repetition in range(self.suite.tuning_repetitions)
        ]


@dataclass(frozen=True)
class Tuned:
    """The learning rate that won; whether it is at an edge of the grid; trials, and failed ones."""

    lr: float
    edge: bool
    trials: int
    failed: int


def choose(method: Method, trials: Sequence[Row]) -> Tuned:
    """The learning rate with the best median selection value; a failed trial is the worst."""

    def score(lr: float) -> float:
        rows = [row for row in trials if row["lr"] == lr]
        return statistics.median([row.get("selection", math.inf) for row in rows] or [math.inf])

    scores = {lr: score(lr) for lr in method.grid}
    best = min(scores, key=scores.__getitem__)
    if math.isinf(scores[best]):
        best = method.grid[len(method.grid) // 2]
    return Tuned(
        lr=best,
        edge=len(method.grid) > 1 and best in (method.grid[0], method.grid[-1]),
        trials=len(trials),
        failed=sum(row["status"] != "ok" for row in trials),
    )


def run_each(specs: Sequence[tuple[RunSpec, Row]], jobs: int) -> Iterator[Row]:
    """Run every spec in a process of its own, `jobs` at a time; yield rows as they come.

    A process that dies or passes its time limit yields a failed row. When the caller stops
    early (an interrupt), the running processes are ended and leave no row.
    """
    waiting = list(reversed(specs))
    running: list[tuple[RunSpec, Row, Child]] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                spec, head = waiting.pop()
                running.append((spec, head, Child(work, spec, head)))
            ready = set(wait([child.connection for _, _, child in running], timeout=1.0))
            for job in list(running):
                spec, head, child = job
                limit = spec.budget.time_limit
                if child.connection in ready:
                    row = _row_of(child, head)
                elif child.seconds > limit:
                    child.end()
                    row = _failed(head, f"time limit of {limit:.0f} s passed")
                else:
                    continue
                running.remove(job)
                yield row
    finally:
        for _, _, child in running:
            child.end()


def _row_of(child: Child, head: Row) -> Row:
    try:
        row: Row = child.receive()
    except EOFError:
        row = _failed(head, child.how_it_ended())
    child.end(wait=1.0)
    return row


def _failed(head: Row, error: str) -> Row:
    return head | {"status": "failed", "error": error}


@dataclass
class SuiteRunner:
    """Runs a plan and keeps the rows in a store."""

    plan: Plan
    directory: Path
    jobs: int
    resume: bool
    console: Console

    def __post_init__(self) -> None:
        self.store = Store(self.directory)

    def run(self) -> list[str]:
        """Tune and measure; return the keys of the measured runs."""
        done = {row["key"]: row for row in self.store.rows()}
        if self.store.truncated:
            self.say(
                f"{self.store.path}: the last line is cut off (a write was interrupted); "
                "it is dropped and that run is done again."
            )
        tuned = self._tune(done)
        specs = []
        for problem, method in self.plan.pairs():
            choice = tuned[problem.name, self.plan.tuned(method).name]
            tuning = {name: value for name, value in asdict(choice).items() if name != "lr"}
            budget = self.plan.budget(problem)
            for repetition in range(self.plan.repetitions):
                spec = RunSpec("run", problem.name, method.name, choice.lr, repetition, budget)
                specs.append((spec, spec.head() | {"tuning": tuning}))
        random.Random(0).shuffle(specs)
        self._execute("measuring", specs, self.jobs, done, _run_text)
        return [head["key"] for _, head in specs]

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _tune(self, done: dict[str, Row]) -> dict[tuple[str, str], Tuned]:
        specs = [(spec, spec.head()) for spec in self.plan.tuning_specs()]
        threads = max(self.plan.budget(p).threads for p in self.plan.problems)
        jobs = max(self.jobs, (os.cpu_count() or 1) // threads)  # trials are not timed
        self._execute("tuning", specs, jobs, done, _tune_text)
        chosen = {}
        for problem, method in ((p.name, self.plan.tuned(m)) for p, m in self.plan.pairs()):
            keys = [h["key"] for s, h in specs if (s.problem, s.method) == (problem, method.name)]
            chosen[problem, method.name] = choose(method, [done[key] for key in keys])
        return chosen

    def _execute(
        self,
        phase: str,
        specs: Sequence[tuple[RunSpec, Row]],
        jobs: int,
        done: dict[str, Row],
        text: Callable[[Row], str],
    ) -> None:
        todo = [s for s in specs if not (self.resume and s[1]["key"] in done)]
        if len(todo) < len(specs):
            self.say(
                f"{phase}: {len(specs) - len(todo)} of {len(specs)} runs are in the store already "
                "(same code, budget and seed) and are kept; --no-resume measures them again"
            )
        if not todo:
            return
        with Ticker(self.console, phase, len(todo)) as ticker:
            for row in run_each(todo, jobs):
                row["suite"] = self.plan.suite.name
                row["jobs"] = jobs
                self.store.append(row)
                done[row["key"]] = row
                ticker.done(text(row), failed=phase == "measuring" and row["status"] != "ok")


def _label(row: Row) -> str:
    return f"{row['problem']}  {row['method']}  lr {row['lr']:g}"


def _tune_text(row: Row) -> str:
    if row["status"] != "ok":
        return f"{_label(row)}  failed: {row['error']}"
    return f"{_label(row)}  {registry.problems()[row['problem']].metric} {row['metric']:.4g}"


def _run_text(row: Row) -> str:
    label = f"{_label(row)}  repetition {row['repetition'] + 1}"
    if row["status"] != "ok":
        return f"{label}  failed: {row['error']}"
    trace = row["trace"]
    times = [a + b for a, b in zip(trace["forward_backward"], trace["optimizer"], strict=True)]
    metric = registry.problems()[row["problem"]].metric
    return (
        f"{label}  {statistics.median(times) * 1e3:.2f} ms/step  {metric} {trace['metric'][-1]:.4g}"
    )
