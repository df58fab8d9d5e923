"""All runs of a suite: tune on other seeds, then measure in shuffled order, one process each."""

from __future__ import annotations

import contextlib
import math
import os
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from riemopt_bench import registry
from riemopt_bench.interface import Budget, Method, Problem, Skip
from riemopt_bench.progress import Ticker
from riemopt_bench.train.jobs import Cluster, Here, Job
from riemopt_bench.train.placement import Placement
from riemopt_bench.train.store import Row, Store
from riemopt_bench.train.suites import Settings, Suite
from riemopt_bench.train.worker import RunSpec

MEASURED_PER_TRIAL = 1.3
"""How much longer a measured run takes than a trial, for the time left; a guess from the demo."""


@dataclass(frozen=True)
class Plan:
    """What is to be run: the suite, narrowed to some problems and methods, with the settings."""

    suite: Suite
    problems: tuple[Problem, ...]
    methods: tuple[Method, ...]
    repetitions: int
    settings: Settings = field(default_factory=Settings)

    def pairs(self) -> list[tuple[Problem, Method]]:
        """Every problem with every method that applies to it."""
        return [(p, m) for p in self.problems for m in self.methods if m.skip(p) is None]

    def left_out(self) -> list[tuple[Problem, Method, Skip]]:
        """Every pair that is not run, with the reason."""
        skips = [(p, m, m.skip(p)) for p in self.problems for m in self.methods]
        return [(p, m, skip) for p, m, skip in skips if skip is not None]

    def budget(self, problem: Problem) -> Budget:
        """What one run of a problem of the plan may spend."""
        return self.settings.applied(self.suite.budget(problem))

    def trial_budget(self, problem: Problem) -> Budget:
        """What one trial of a learning rate may spend; of its records only the last counts."""
        return self.budget(problem).part(self.suite.trial_share, records=1)

    @property
    def placement(self) -> Placement:
        """Where all runs take place."""
        return Placement(self.settings.device, self.settings.dtype)

    def tuned(self, method: Method) -> Method:
        """The method whose trials decide the learning rate of `method`."""
        known = registry.methods() | {m.name: m for m in self.methods}
        return known[method.tuned_as or method.name]

    def tuning_specs(self) -> list[RunSpec]:
        """One trial per learning rate and tuning repetition; shared where the arithmetic is.

        In shuffled order, so that the first trials say how long the others take. A single rate
        needs no trial.
        """
        wanted = {(p.name, self.tuned(m).name): (p, self.tuned(m)) for p, m in self.pairs()}
        specs = [
            RunSpec("tune", p.name, m.name, lr, repetition, self.trial_budget(p), self.placement)
            for p, m in wanted.values()
            for lr in self.suite.grid(m)
            if len(self.suite.grid(m)) > 1
            for repetition in range(self.suite.tuning_repetitions)
        ]
        random.Random(0).shuffle(specs)
        return specs

    def run_specs(self, tuned: Mapping[tuple[str, str], Tuned]) -> list[Job]:
        """The measured runs, with what is known of their rows, in shuffled order."""
        jobs = []
        for problem, method in self.pairs():
            choice = tuned[problem.name, self.tuned(method).name]
            tuning = {name: value for name, value in asdict(choice).items() if name != "lr"}
            budget = self.budget(problem)
            for repetition in range(self.repetitions):
                spec = RunSpec(
                    "run", problem.name, method.name, choice.lr, repetition, budget, self.placement
                )
                jobs.append((spec, spec.head() | {"tuning": tuning}))
        random.Random(0).shuffle(jobs)
        return jobs


@dataclass(frozen=True)
class Tuned:
    """The learning rate that won; whether it is at an edge of the grid; trials, and failed ones."""

    lr: float
    edge: bool
    trials: int
    failed: int


def choose(grid: Sequence[float], trials: Sequence[Row]) -> Tuned:
    """The learning rate with the best median selection value; a failed trial is the worst."""

    def score(lr: float) -> float:
        rows = [row for row in trials if row["lr"] == lr]
        return statistics.median([row.get("selection", math.inf) for row in rows] or [math.inf])

    scores = {lr: score(lr) for lr in grid}
    best = min(scores, key=scores.__getitem__)
    if math.isinf(scores[best]):
        best = grid[len(grid) // 2]
    return Tuned(
        lr=best,
        edge=len(grid) > 1 and best in (grid[0], grid[-1]),
        trials=len(trials),
        failed=sum(row["status"] != "ok" for row in trials),
    )


@dataclass
class SuiteRunner:
    """Runs a plan and keeps the rows in a store.

    Runs take place on this machine, `jobs` measured ones at a time, or on a `cluster`.
    """

    plan: Plan
    directory: Path
    jobs: int
    resume: bool
    console: Console
    cluster: Cluster | None = None

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
        measured = self.plan.run_specs(self._tune(done))
        self._execute("measuring", measured, self.cluster or Here(self.jobs), done, _run_text)
        return [head["key"] for _, head in measured]

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _tune(self, done: dict[str, Row]) -> dict[tuple[str, str], Tuned]:
        specs = [(spec, spec.head()) for spec in self.plan.tuning_specs()]
        self._execute("tuning", specs, self.cluster or Here(self._trials()), done, _tune_text)
        trials: dict[tuple[str, str], list[Row]] = {}
        for spec, head in specs:
            trials.setdefault((spec.problem, spec.method), []).append(done[head["key"]])
        chosen = {}
        for problem, method in ((p.name, self.plan.tuned(m)) for p, m in self.plan.pairs()):
            of_both = trials.get((problem, method.name), [])
            chosen[problem, method.name] = choose(self.plan.suite.grid(method), of_both)
        return chosen

    def _trials(self) -> int:
        """How many trials may run at the same time: they are not timed, unless seconds count."""
        if self.plan.settings.seconds is not None or self.plan.settings.device != "cpu":
            return self.jobs
        threads = max(self.plan.budget(p).threads for p in self.plan.problems)
        return max(self.jobs, (os.cpu_count() or 1) // threads)

    def _execute(
        self,
        phase: str,
        specs: Sequence[Job],
        place: Here | Cluster,
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
        later = self._later(place.jobs) if phase == "tuning" else 0.0
        with (
            Ticker(self.console, phase, len(todo), later) as ticker,
            contextlib.closing(place.rows(todo)) as rows,
        ):
            for row in rows:
                row["suite"] = self.plan.suite.name
                row["jobs"] = place.jobs
                self.store.append(row)
                done[row["key"]] = row
                ticker.done(text(row), failed=phase == "measuring" and row["status"] != "ok")

    def _later(self, trials_at_a_time: int) -> float:
        """What measuring will take, in trials' time: warm-up and the memory pass come on top."""
        runs = len(self.plan.pairs()) * self.plan.repetitions
        at_a_time = self.cluster.jobs if self.cluster else self.jobs
        return MEASURED_PER_TRIAL * runs * trials_at_a_time / at_a_time


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
