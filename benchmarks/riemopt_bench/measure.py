"""One run: train for a fixed number of steps, with the clock on forward, backward and step only.

Evaluation and violations are taken off the clock, at a few recorded steps. The learning rate falls
linearly to zero over the budget, for every method alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from riemopt_bench.interface import Attached, Constraint, Method, Problem, Task
from riemopt_bench.memory import LiveBytes, bytes_of, held_tensors
from riemopt_bench.suites import Budget

START_TOLERANCE = 1e-5


class NotFiniteError(Exception):
    """The loss or the metric is not a number any more: the run has failed, and counts as such."""


class UnequalStartError(Exception):
    """A method changed the starting weights, so that its run cannot be compared."""


@dataclass
class Trace:
    """What is written down at the recorded steps, and the time of every step."""

    step: list[int] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    selection: list[float] = field(default_factory=list)
    stored_violation: dict[str, list[float]] = field(default_factory=dict)
    used_violation: dict[str, list[float]] = field(default_factory=dict)
    original_norm: dict[str, list[float]] = field(default_factory=dict)
    forward_backward: list[float] = field(default_factory=list)
    optimizer: list[float] = field(default_factory=list)


def record_steps(steps: int, records: int) -> list[int]:
    """Steps to record: 0, then denser at the start (where violations appear), the last included."""
    if steps <= records:
        return list(range(steps + 1))
    ratio = [i / records for i in range(records + 1)]
    return sorted({round(steps * r**1.5) for r in ratio} | {1, steps})


def fresh(problem: Problem, method: Method, lr: float, seed: int) -> tuple[Task, Attached]:
    """Build the task from its seed, attach the method, and check that the start is unchanged."""
    task = problem.build(seed)
    unknown = {c.kind for c in task.constraints.values()} ^ problem.kinds
    if unknown:
        raise ValueError(f"problem {problem.name!r} declares kinds that differ in {unknown}")
    start = {name: task.model.get_parameter(name).detach().clone() for name in task.constraints}
    attached = method.attach(task, lr)
    assert_same_start(start, attached.used(), task.constraints)
    return task, attached


def assert_same_start(
    start: Mapping[str, Tensor], used: Mapping[str, Tensor], constraints: Mapping[str, Constraint]
) -> None:
    """Every method must begin from the task's own weights, which lie on their surfaces."""
    for name, expected in start.items():
        moved = (used[name].detach() - expected).abs().max().item()
        off = constraints[name].violation(expected)
        if not max(moved, off) <= START_TOLERANCE:
            raise UnequalStartError(
                f"{name}: the method starts {moved:.1e} away from the task's weight, which is "
                f"{off:.1e} from its surface; both must be at most {START_TOLERANCE:.0e}"
            )


def one_step(task: Task, attached: Attached, batch: Any) -> tuple[float, float, Tensor]:
    """One training step: seconds of forward + backward, seconds of the optimizer, the loss.

    Clearing the gradients is a part of the optimizer's time, for every method.
    """
    begin = time.perf_counter()
    with attached.forward_context():
        loss = task.loss(task.model, batch)
        loss.backward()
    middle = time.perf_counter()
    attached.step()
    attached.optimizer.zero_grad()
    end = time.perf_counter()
    return middle - begin, end - middle, loss.detach()


def train(task: Task, attached: Attached, budget: Budget) -> Trace:
    """Take all steps of the budget; raise `NotFiniteError` if the loss stops being finite."""
    trace = Trace()
    record_at = set(record_steps(budget.steps, budget.records))
    initial = [float(group["lr"]) for group in attached.optimizer.param_groups]
    elapsed = 0.0
    with torch.no_grad():
        first = task.loss(task.model, task.batch(0)).item()
    _record(trace, 0, 0.0, first, task, attached)
    for step in range(1, budget.steps + 1):
        for group, lr in zip(attached.optimizer.param_groups, initial, strict=True):
            group["lr"] = lr * (1 - (step - 1) / budget.steps)
        forward_backward, optimizer, loss = one_step(task, attached, task.batch(step))
        elapsed += forward_backward + optimizer
        trace.forward_backward.append(forward_backward)
        trace.optimizer.append(optimizer)
        value = loss.item()
        if not math.isfinite(value):
            raise NotFiniteError(f"the loss became {value} at step {step} of {budget.steps}")
        if step in record_at:
            _record(trace, step, elapsed, value, task, attached)
    return trace


@torch.no_grad()
def _record(
    trace: Trace, step: int, elapsed: float, loss: float, task: Task, attached: Attached
) -> None:
    task.model.eval()
    evaluation = task.evaluate(task.model)
    task.model.train()
    if not math.isfinite(evaluation.metric):
        raise NotFiniteError(f"the metric became {evaluation.metric} at step {step}")
    trace.step.append(step)
    trace.elapsed.append(elapsed)
    trace.loss.append(loss)
    trace.metric.append(evaluation.metric)
    trace.selection.append(evaluation.selection)
    stored, used = attached.stored(), attached.used()
    for name, constraint in task.constraints.items():
        violation = constraint.violation(used[name])
        trace.used_violation.setdefault(name, []).append(violation)
        if stored[name] is not used[name]:
            violation = constraint.violation(stored[name])
        trace.stored_violation.setdefault(name, []).append(violation)
    for name, original in attached.originals().items():
        trace.original_norm.setdefault(name, []).append(original.norm().item())


def memory(problem: Problem, method: Method, lr: float, seed: int) -> dict[str, int]:
    """Bytes held between steps and the peak within a step, in a pass of its own."""
    task, attached = fresh(problem, method, lr, seed)
    one_step(task, attached, task.batch(1))  # creates the optimizer's state
    held = held_tensors(task.model, attached.optimizer)
    with LiveBytes(held) as live:
        one_step(task, attached, task.batch(2))
    return {"held": bytes_of(held), "peak": live.peak}
