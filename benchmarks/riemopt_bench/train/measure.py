"""One run: spend a budget, with the clock on forward, backward and step only.

Evaluation and violations are taken off the clock, at a few shares of the budget.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from riemopt_bench.interface import Attached, Budget, Method, Observe, Problem, Task
from riemopt_bench.memory import LiveBytes, bytes_of
from riemopt_bench.surfaces import Surface
from riemopt_bench.train.placement import Placement

START_TOLERANCE = 1e-5  # and 16 roundings of the dtype, where those are more


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


def fresh(
    problem: Problem, method: Method, lr: float, seed: int, placement: Placement | None = None
) -> tuple[Task, Attached]:
    """Build the task from its seed, attach the method, and check that the start is unchanged."""
    task = (placement or Placement()).build(problem, seed)
    different = set(task.surfaces.values()) ^ problem.surfaces
    if different:
        raise ValueError(f"problem {problem.name!r} declares surfaces that differ in {different}")
    start = {name: task.model.get_parameter(name).detach().clone() for name in task.surfaces}
    attached = method.attach(task, lr)
    assert_same_start(start, attached.used(), task.surfaces)
    return task, attached


def assert_same_start(
    start: Mapping[str, Tensor], used: Mapping[str, Tensor], surfaces: Mapping[str, Surface]
) -> None:
    """Every method must begin from the task's own weights, which lie on their surfaces."""
    for name, expected in start.items():
        moved = (used[name].detach() - expected).abs().max().item()
        off = surfaces[name].violation(expected)
        allowed = max(START_TOLERANCE, 16 * torch.finfo(expected.dtype).eps)
        if not max(moved, off) <= allowed:
            raise UnequalStartError(
                f"{name}: the method starts {moved:.1e} away from the task's weight, which is "
                f"{off:.1e} from its surface; both must be at most {allowed:.0e}"
            )


class Watch:
    """Clock, data, budget and records of one training loop: see `interface.Observe`.

    An iteration begins where `watch()` returns and ends where it is called again. What passes
    outside `evaluate` is the optimizer's time, clearing the gradients included, for every method
    (and all of the time of a method that computes the loss itself).
    If one iteration spends several steps, they share its time, and what is due at any of them is
    recorded at its end.
    """

    def __init__(self, task: Task, attached: Attached, budget: Budget, record: bool = True) -> None:
        self.task, self.attached, self.budget = task, attached, budget
        self._device = next(task.model.parameters()).device
        self.trace = Trace()
        self._due = budget.shares if record else []
        self._spent = self._iteration = 0
        self._elapsed = self._begin = self._off_clock = 0.0
        self._evaluations: list[float] = []
        self._loss: Tensor | None = None
        self._last_loss = math.nan
        self._batch: Any = None

    @property
    def rate(self) -> float:
        """The schedule's factor of the learning rate."""
        return self.budget.rate(1 - self._share)

    @property
    def _share(self) -> float:
        """The part of the budget that is spent."""
        return self.budget.spent(self._spent, self._elapsed)

    @property
    def batch(self) -> Any:
        """This iteration's data."""
        if self._batch is None:
            begin = self._now()
            self._batch = self.task.batch(self._iteration)
            self._off_clock += self._now() - begin
        return self._batch

    def evaluate(self) -> Tensor:
        """Loss and gradients on this iteration's data."""
        batch = self.batch
        begin = self._now()
        with self.attached.forward_context():
            loss = self.task.loss(self.task.model, batch)
            loss.backward()
        self.tell(loss, self._now() - begin)
        return loss.detach()

    def tell(self, loss: Tensor, seconds: float = 0.0) -> None:
        """An evaluation was made, and took `seconds` of forward and backward."""
        self._evaluations.append(seconds)
        self._loss = loss.detach()

    def __call__(self) -> bool:
        """Stop the clock and record what is due; return whether the budget allows more."""
        if self._iteration > 0:
            self._end_iteration(self._now())
        elif self._due:
            self._record_start()
        self._iteration += 1
        self._batch, self._loss, self._evaluations, self._off_clock = None, None, [], 0.0
        self._begin = self._now()
        return self._share < 1

    def finish(self) -> Trace:
        """After the loop: a method that stopped early stays where it is for the rest."""
        if self._due:
            self._record(self._last_loss, through=1.0)
        return self.trace

    def _now(self) -> float:
        """Seconds, once all that was asked of the device is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _end_iteration(self, now: float) -> None:
        count = len(self._evaluations)
        if self._loss is None:
            raise RuntimeError("an iteration ended without a call of `evaluate` or `tell`")
        seconds = now - self._begin - self._off_clock
        self._elapsed += seconds
        self.trace.forward_backward += self._evaluations
        self.trace.optimizer += [(seconds - sum(self._evaluations)) / count] * count
        self._spent += count
        self._last_loss = value = self._loss.item()
        if not math.isfinite(value):
            limit = "" if self.budget.steps is None else f" of {self.budget.steps}"
            raise NotFiniteError(f"the loss became {value} at step {self._spent}{limit}")
        if self._due and self._due[0] <= self._share:
            self._record(value, through=self._share)

    @torch.no_grad()
    def _record_start(self) -> None:
        self._last_loss = self.task.loss(self.task.model, self.task.batch(0)).item()
        self._record(self._last_loss, through=0.0)

    def _record(self, loss: float, through: float) -> None:
        now = Trace()
        _look(now, self.task, self.attached, self._spent)
        trace = self.trace
        while self._due and self._due[0] <= through:
            trace.step.append(self._step_of(self._due.pop(0)))
            trace.elapsed.append(self._elapsed)
            trace.loss.append(loss)
            trace.metric += now.metric
            trace.selection += now.selection
            for name in ("stored_violation", "used_violation", "original_norm"):
                series = getattr(trace, name)
                for weight, values in getattr(now, name).items():
                    series.setdefault(weight, []).extend(values)

    def _step_of(self, share: float) -> int:
        """The step that a record stands for: that of its share, where steps alone are counted."""
        if self.budget.steps is None or self.budget.seconds is not None:
            return self._spent
        return round(share * self.budget.steps)


@torch.no_grad()
def _look(trace: Trace, task: Task, attached: Attached, step: int) -> None:
    """Evaluate the task and see how far off its weights are."""
    task.model.eval()
    evaluation = task.evaluate(task.model)
    task.model.train()
    if not math.isfinite(evaluation.metric):
        raise NotFiniteError(f"the metric became {evaluation.metric} at step {step}")
    trace.metric.append(evaluation.metric)
    trace.selection.append(evaluation.selection)
    stored, used = attached.stored(), attached.used()
    for name, surface in task.surfaces.items():
        violation = surface.violation(used[name])
        trace.used_violation[name] = [violation]
        if stored[name] is not used[name]:
            violation = surface.violation(stored[name])
        trace.stored_violation[name] = [violation]
    for name, original in attached.originals().items():
        trace.original_norm[name] = [original.norm().item()]


def _step_by_step(attached: Attached, observe: Observe) -> None:
    """The loop of methods that do not own theirs."""
    optimizer = attached.optimizer
    assert optimizer is not None
    initial = [float(group["lr"]) for group in optimizer.param_groups]
    while observe():
        for group, lr in zip(optimizer.param_groups, initial, strict=True):
            group["lr"] = lr * observe.rate
        observe.evaluate()
        attached.step()
        optimizer.zero_grad()


def train(task: Task, attached: Attached, budget: Budget, record: bool = True) -> Trace:
    """Spend the budget; raise `NotFiniteError` if the loss stops being finite."""
    watch = Watch(task, attached, budget, record)
    solve = attached.solve or functools.partial(_step_by_step, attached)
    solve(watch)
    return watch.finish()


def memory(task: Task, attached: Attached) -> dict[str, int]:
    """Bytes held between steps and the peak within a step, in a pass of its own.

    On the CPU live tensors are counted; on a GPU its allocator is asked, which knows the scratch
    space of kernels too.
    """
    one_step = Budget(1)
    train(task, attached, one_step, record=False)  # creates the optimizer's state
    held = attached.held(task)
    device = next(task.model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        train(task, attached, one_step, record=False)
        return {"held": bytes_of(held), "peak": torch.cuda.max_memory_allocated(device)}
    with LiveBytes(held) as live:
        train(task, attached, one_step, record=False)
    return {"held": bytes_of(held), "peak": live.peak}
