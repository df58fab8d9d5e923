"""What is run together: problems, numbers of steps and repetitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Budget:
    """What one run may spend. Part of a run's key: another budget is another measurement.

    `steps` are all taken, whatever the loss does, unless it stops being finite. `warmup` steps are
    taken on a throw-away copy. `records` is the number of steps at which metric and violations are
    written down, off the clock. `time_limit` (seconds, whole process) counts as a failure.
    """

    steps: int
    warmup: int = 5
    records: int = 40
    threads: int = 1
    time_limit: float = 600.0

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the store."""
        return asdict(self)


@dataclass(frozen=True)
class Suite:
    """A named set of problems with a budget for each, repetitions, and tuning repetitions."""

    name: str
    description: str
    budgets: Mapping[str, Budget]
    repetitions: int
    tuning_repetitions: int = 1


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
