"""What happens inside one process: one run, from its description to its row.

The process is new for every run: see `processes.py`.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np
import torch

from riemopt_bench import environment, registry
from riemopt_bench.interface import Attached, Budget, Task
from riemopt_bench.processes import describe
from riemopt_bench.train import measure
from riemopt_bench.train.placement import Placement
from riemopt_bench.train.store import Row

FORMAT = 3  # raise it when measure.py changes what a row means: old rows are then measured again
Phase = Literal["tune", "run"]


@dataclass(frozen=True)
class RunSpec:
    """One run, fully described."""

    phase: Phase
    problem: str
    method: str
    lr: float
    repetition: int
    budget: Budget = field(hash=False)
    placement: Placement = field(default_factory=Placement)

    @property
    def seed(self) -> int:
        """A hash of problem and repetition alone: every method sees the same data and start."""
        text = f"{self.phase}/{self.problem}/{self.repetition}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")

    @property
    def cell(self) -> str:
        """Hash of all that determines the result except the repetition."""
        method = registry.methods()[self.method]
        return _digest(
            {
                "format": FORMAT,
                "phase": self.phase,
                "problem": self.problem,
                "method": self.method,
                "hyperparameters": {"lr": self.lr},
                "budget": asdict(self.budget),
                "placement": asdict(self.placement),
                "source": [
                    registry.source("problem", self.problem),
                    registry.source("method", self.method),
                ],
                "versions": {p: environment.version(p) for p in method.packages},
            }
        )

    @property
    def key(self) -> str:
        """Hash of all that determines the result."""
        return _digest({"cell": self.cell, "repetition": self.repetition, "seed": self.seed})

    def head(self) -> Row:
        """The part of a row that is known before the run."""
        return {"key": self.key, "cell": self.cell, "seed": self.seed, **asdict(self)}


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


def work(spec: RunSpec, head: Row, connection: Connection) -> None:
    """What a process does: send one row and end. The parent decides about interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send(head | execute(spec))
    connection.close()


def execute(spec: RunSpec) -> Row:
    """Do the run. An exception makes a failed row, which is stored and counted like any other."""
    row: Row = {}
    started = time.time()
    load = environment.load()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row |= {"status": "ok", **_measured(spec)}
    except Exception as error:
        row |= {"status": "failed", "error": describe(error)}
        if not isinstance(error, measure.NotFiniteError):
            row["traceback"] = traceback.format_exc(limit=-4)
    row["environment"] = environment.describe(spec.placement.device) | {
        "load": load,
        "load_after": environment.load(),
        "started": round(started),
        "seconds": round(time.time() - started, 2),
    }
    return row


def _measured(spec: RunSpec) -> dict[str, Any]:
    torch.set_num_threads(spec.budget.threads)
    problem = registry.problems()[spec.problem]
    method = registry.methods()[spec.method]

    def prepared() -> tuple[Task, Attached]:
        return measure.fresh(problem, method, spec.lr, spec.seed, spec.placement)

    if spec.phase == "tune":
        _seed_everything(spec.seed)
        trace = measure.train(*prepared(), spec.budget)
        return {"selection": trace.selection[-1], "metric": trace.metric[-1]}
    if spec.budget.warmup:
        measure.train(*prepared(), Budget(spec.budget.warmup), record=False)
    _seed_everything(spec.seed)
    task, attached = prepared()
    start = _start_checksum(problem.build(spec.seed))
    trace = measure.train(task, attached, spec.budget)
    return {"trace": asdict(trace), "memory": measure.memory(*prepared()), "start": start}


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _start_checksum(task: Task) -> str:
    """Hash of the starting parameters and the first batch: equal for all methods of a seed."""
    digest = hashlib.sha256()
    batch = task.batch(1)
    tensors = [*task.model.parameters(), *(batch if isinstance(batch, tuple) else (batch,))]
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
