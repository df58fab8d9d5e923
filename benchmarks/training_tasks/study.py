"""Tune methods on tasks and run them on fresh seeds; every run is one line of a results file.

    study = Study(path, {"sgd": lambda training, lr: RiemannianSGD(training.groups(), lr=lr)})
    lr = study.tune("digits_mlp", "sgd")
    rows = study.fresh("digits_mlp", "sgd", lr, seeds=5)

Rates are half decades: five around the task's own guess, and further ones while the best is at an
edge. Each is tried on three seeds, which are not those that are reported. A second start skips the
runs that the file holds. A run whose loss is not finite is a row with no loss, and the worst.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from riemopt_bench.train.store import Store
from torch.optim import Optimizer

from training_tasks import TASKS
from training_tasks.interface import Training, TrainingTask, train

TUNING_SEEDS = (100, 101, 102)
EXTENSIONS = 6  # after which the best rate is taken though it is at the edge

Row = dict[str, Any]
Method = Callable[[Training, float], Optimizer]


class Spec(NamedTuple):
    """What determines a run."""

    task: str
    method: str
    lr: float
    seed: int
    steps: int

    @property
    def key(self) -> str:
        """The name of the run in the results file."""
        return "|".join(map(str, self))


class MissingRunError(KeyError):
    """The results file lacks a run, and this study only reads."""


class Study:
    """Methods, and the results file of their runs.

    Args:
        path: the results, JSON lines; it is made if it is not there.
        methods: from a training and a learning rate to the optimizer.
        tasks: by name.
        read_only: raise `MissingRunError` instead of running what the file lacks.
    """

    def __init__(
        self,
        path: Path,
        methods: Mapping[str, Method],
        tasks: Mapping[str, TrainingTask] = TASKS,
        *,
        read_only: bool = False,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.methods, self.tasks, self.read_only = methods, tasks, read_only
        self.store = Store(path.parent)
        self.store.path = path
        self.rows: dict[str, Row] = {row["key"]: row for row in self.store.rows()}

    def get(self, spec: Spec) -> Row:
        """The row of a run, which is run if it is not there."""
        if spec.key not in self.rows:
            if self.read_only:
                raise MissingRunError(spec.key)
            row = self._run(spec)
            self.store.append(row)
            self.rows[spec.key] = row
        return self.rows[spec.key]

    def _run(self, spec: Spec) -> Row:
        task = self.tasks[spec.task]
        start = time.perf_counter()
        training = task.build(spec.seed)
        figures = train(training, self.methods[spec.method](training, spec.lr), spec.steps)
        seconds = round(time.perf_counter() - start, 2)
        row: Row = {"key": spec.key, **spec._asdict(), "seconds": seconds}
        row["loss"] = _short(figures.loss) if figures else None
        if figures and figures.test is not None:
            row["test"] = _short(figures.test)
        return row

    def tune(self, task: str, method: str, figure: str = "loss") -> float:
        """The rate with the least mean log of a figure, "loss" or "test", over the tuning seeds."""
        middle = round(2 * math.log10(self.tasks[task].lr))
        scores: dict[int, float] = {}
        new = list(range(middle - 2, middle + 3))
        for _ in range(EXTENSIONS + 1):
            scores |= {index: self._score(task, method, rate(index), figure) for index in new}
            best = min(scores, key=lambda index: scores[index])
            if best == min(scores):
                new = [best - 1]
            elif best == max(scores):
                new = [best + 1]
            else:
                break
        return rate(best)

    def _score(self, task: str, method: str, lr: float, figure: str) -> float:
        rows = [self.get(self._spec(task, method, lr, seed)) for seed in TUNING_SEEDS]
        if any(row.get(figure) is None for row in rows):
            return math.inf
        return math.fsum(math.log(row[figure]) for row in rows) / len(rows)

    def fresh(self, task: str, method: str, lr: float, seeds: int) -> list[Row]:
        """The runs that are reported: seeds 0, 1, … at the rate that was tuned."""
        return [self.get(self._spec(task, method, lr, seed)) for seed in range(seeds)]

    def _spec(self, task: str, method: str, lr: float, seed: int) -> Spec:
        return Spec(task, method, lr, seed, self.tasks[task].steps)


def rate(index: int) -> float:
    """…, .001, .003, .01, .03, …: half decades; `rate(0)` is 1."""
    decade, half = divmod(index, 2)
    return float(f"{3 if half else 1}e{decade}")


def _short(value: float) -> float:
    return float(f"{value:.6g}")
