"""What is run together: how much of each problem's budget, how many rates and repetitions."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from riemopt_bench import registry
from riemopt_bench.interface import Budget, Method, Problem, Schedule

OWN = Budget(600)
"""The budget of a problem that names none."""


@dataclass(frozen=True)
class Suite:
    """A selection of problems, and what a run of each may spend.

    `budgets` narrows the suite to the problems that it names (those of the user's own files join
    it) and says what each may spend; without, every problem is part of it that has a budget of its
    own. A problem that is not named spends the `share` of the steps of that, and is looked at
    `records` times, or as often as its budget says. Of every method's learning rates one in
    `every_rate` is tried, in runs of the `trial_share` of the budget. With `only`, methods of the
    registry that it does not name are run if they are asked for. Measured runs take place `at_once`
    at a time, on as many cores, if the user does not say how many.
    """

    name: str
    description: str
    budgets: Mapping[str, Budget] | None
    repetitions: int
    share: float = 1.0
    every_rate: int = 1
    tuning_repetitions: int = 1
    trial_share: float = 1.0
    records: int | None = None
    at_once: int = 1
    only: tuple[str, ...] = ()

    def problems(self) -> list[Problem]:
        """The problems that are run when none is named."""
        known = registry.problems()
        if self.budgets is None:
            return [p for p in known.values() if p.budget is not None or registry.is_own(p)]
        return [p for name, p in known.items() if name in self.budgets or registry.is_own(p)]

    def methods(self) -> list[Method]:
        """The methods that are run when none is named."""
        known = registry.methods().values()
        return [m for m in known if not self.only or m.name in self.only or registry.is_own(m)]

    def budget(self, problem: Problem) -> Budget:
        """What a run of any problem may spend."""
        if self.budgets is not None and problem.name in self.budgets:
            return self.budgets[problem.name]
        return (problem.budget or OWN).part(self.share, self.records)

    def jobs(self, settings: Settings) -> int:
        """How many measured runs take place at the same time if the user does not say."""
        is_timed = settings.seconds is not None or settings.device != "cpu"
        return 1 if is_timed else min(self.at_once, os.cpu_count() or 1)

    def grid(self, method: Method) -> Sequence[float]:
        """The learning rates that are tried."""
        first = len(method.grid) // 2 % self.every_rate
        return method.grid[first :: self.every_rate]


@dataclass(frozen=True)
class Settings:
    """What a user may set for all runs of a suite. Part of every run's key.

    `steps` and `seconds` (of the clock) replace the suite's budgets; with both, a run ends with
    whichever is spent first. `schedule`, `dtype` and `device` replace those of the problems.
    """

    steps: int | None = None
    seconds: float | None = None
    schedule: Schedule | None = None
    device: str = "cpu"
    dtype: str | None = None

    def applied(self, budget: Budget) -> Budget:
        """The budget that a run then has."""
        if self.steps is not None or self.seconds is not None:
            budget = dataclasses.replace(budget, steps=self.steps, seconds=self.seconds)
        if self.seconds is not None:  # evaluation, warm-up and the memory pass come on top
            limit = max(budget.time_limit, 10 * self.seconds)
            budget = dataclasses.replace(budget, time_limit=limit)
        if self.schedule is not None:
            budget = dataclasses.replace(budget, schedule=self.schedule)
        return budget


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "demo",
            "Three small problems and eleven methods; about three minutes on two cores.",
            {"digits": Budget(200), "pca": Budget(400), "circle": Budget(600)},
            repetitions=3,
            only=(
                "riemopt-adam",
                "riemopt-sgd",
                "parametrize-householder",
                "parametrize-householder-cached",
                "parametrize-matrix-exp-cached",
                "parametrize-cayley",
                "parametrize-cayley-cached",
                "geoopt-adam",
                "pogo-adam",
                "project-after-adam",
                "adam-unconstrained",
            ),
        ),
        Suite(
            "quick",
            "Every problem and method, a sixth of the steps, every second learning rate, two "
            "runs at a time; under 15 minutes on two cores.",
            budgets=None,
            repetitions=2,
            share=1 / 6,
            every_rate=2,
            records=10,
            at_once=2,
        ),
        Suite(
            "full",
            "Every problem and method, with all learning rates, in trials of half the length, and "
            "5 repetitions; about an hour on two cores.",
            budgets=None,
            repetitions=5,
            trial_share=0.5,
        ),
    )
}
