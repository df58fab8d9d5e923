"""What is run together: problems, numbers of steps and repetitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from riemopt_bench.interface import Budget, Problem


@dataclass(frozen=True)
class Suite:
    """A named set of problems with a budget for each, repetitions, and tuning repetitions."""

    name: str
    description: str
    budgets: Mapping[str, Budget]
    repetitions: int
    tuning_repetitions: int = 1

    def budget(self, problem: Problem) -> Budget | None:
        """What a run of the problem may spend; None if it is not part of the suite."""
        return self.budgets.get(problem.name, problem.budget)


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "demo",
            "Three small problems, 3 repetitions; under five minutes on two cores.",
            {"digits": Budget(200), "pca": Budget(400), "circle": Budget(600)},
            repetitions=3,
        ),
        Suite(
            "small",
            "The same problems with longer runs and 5 repetitions.",
            {"digits": Budget(600), "pca": Budget(1500), "circle": Budget(3000)},
            repetitions=5,
        ),
        Suite(
            "full",
            "All problems, the MNIST subset with layers 1,024 wide; long, and resumable.",
            {
                "digits": Budget(1000, threads=2),
                "mnist5k": Budget(300, threads=2, time_limit=7200.0),
                "pca": Budget(3000, threads=2),
                "circle": Budget(3000, threads=2),
            },
            repetitions=5,
            tuning_repetitions=2,
        ),
    )
}
