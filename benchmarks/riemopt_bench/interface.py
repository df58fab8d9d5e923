"""What is trained or stepped (a task) and how (a method), for both benchmarks.

A task is a model, a loss and a table that says which weight lives on which surface. It knows
nothing of how a weight is kept there. A method takes a task and makes it trainable.

    PROBLEMS = (Problem(name="pca", ..., build=build),)      # problems/pca.py
    METHODS = (Method(name="adam", ..., attach=attach),)     # libraries/plain.py

The training benchmark takes its tasks from problems and trains them. The step benchmark takes its
tasks from workloads, whose loss is ⟨W, C⟩ with a fixed C, and times one step over and over.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from riemopt_bench.surfaces import Surface

if TYPE_CHECKING:
    from riemopt_bench.speed.workloads import Workload


Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True)
class Evaluation:
    """`metric` is what the page shows; `selection` (lower is better) picks the learning rate."""

    metric: float
    selection: float


@dataclass(frozen=True)
class Task:
    """A model to train, built from a seed alone, before any method has touched it.

    `surfaces` names parameters of `model` as `model.named_parameters()` does; each starts on its
    surface. `batch(t)` depends on the step `t` only: every method sees the same data in the same
    order.
    """

    model: nn.Module
    surfaces: Mapping[str, Surface]
    batch: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], Evaluation]

    def place(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds the parameter called `name`, and the parameter's name in it."""
        path, _, attribute = name.rpartition(".")
        return self.model.get_submodule(path), attribute

    def weight(self, name: str) -> Tensor:
        """What the forward uses under that name."""
        weight: Tensor = getattr(*self.place(name))
        return weight

    def weights(self) -> dict[str, Tensor]:
        """The constrained weights as the forward uses them."""
        return {name: self.weight(name) for name in self.surfaces}


@dataclass(frozen=True)
class Budget:
    """What one run may spend. Part of a run's key: another budget is another measurement.

    A step is one evaluation of the loss and its gradient. All `steps` are taken, or `seconds` of
    the clock (which covers forward, backward and step), whichever is spent first; only a loss that
    stops being finite ends a run earlier. `warmup` steps are taken on a throw-away copy. `records`
    is the number of shares of the budget at which metric and violations are written down, off the
    clock. A run that takes longer than `time_limit` (seconds, whole process) has failed. Over the
    budget the learning rate falls to zero along half a cosine, or stays `constant`, for every
    method alike.
    """

    steps: int | None = None
    warmup: int = 5
    records: int = 40
    threads: int = 1
    time_limit: float = 600.0
    schedule: Schedule = "cosine"
    seconds: float | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.steps, self.seconds) if limit is not None]
        if not limits or min(limits) <= 0:
            raise ValueError(
                f"a budget needs steps or seconds, more than none; got steps={self.steps} and "
                f"seconds={self.seconds}"
            )

    def part(self, share: float, records: int | None = None) -> Budget:
        """That share of the budget, one step at least; with as many records, or others."""
        return replace(
            self,
            steps=None if self.steps is None else max(1, round(share * self.steps)),
            seconds=None if self.seconds is None else share * self.seconds,
            records=self.records if records is None else records,
        )

    def spent(self, steps: int, seconds: float) -> float:
        """Which part of the budget that is, from 0 to 1."""
        parts = ((steps, self.steps), (seconds, self.seconds))
        return min(max(used / limit for used, limit in parts if limit is not None), 1.0)

    @property
    def shares(self) -> list[float]:
        """Parts of the budget at which to record: 0, denser at the start, 1.

        Violations appear early, so that the first step is one of them where steps are counted.
        """
        at = {(i / self.records) ** 1.5 for i in range(self.records + 1)}
        if self.seconds is not None or self.steps is None:
            return sorted(at)
        if self.steps <= self.records:
            return [step / self.steps for step in range(self.steps + 1)]
        steps = {round(self.steps * share) for share in at} | {1}
        return [step / self.steps for step in sorted(steps)]

    def rate(self, left: float) -> float:
        """By what to multiply the learning rate when that part of the budget is left."""
        return 1.0 if self.schedule == "constant" else (1 - math.cos(math.pi * left)) / 2


class Case(Protocol):
    """What problems and workloads have in common: enough to say whether a method applies.

    `surfaces`: those that occur. `bounded`: the loss has a minimum without its constraints too.
    `full_batch`: the batch is the same at every step, so that the loss is one function.
    """

    @property
    def surfaces(self) -> frozenset[Surface]: ...
    @property
    def bounded(self) -> bool: ...
    @property
    def full_batch(self) -> bool: ...


@dataclass(frozen=True)
class Problem:
    """A family of tasks, one for each seed, and how the result is judged.

    `reference` says what the result stands beside: how the optimum is known, or what is published
    or reached without the constraint. `target` is the metric value for time-to-target. Metric
    values smaller than `resolution` are rounding and count as equal. `budget` is that of the suite
    `full`, of which the others take a part.
    """

    name: str
    title: str
    description: str
    metric: str
    higher_is_better: bool
    target: float
    surfaces: frozenset[Surface]
    build: Callable[[int], Task]
    reference: str = ""
    bounded: bool = True
    full_batch: bool = False
    log_metric: bool = False
    resolution: float = 0.0
    budget: Budget | None = None

    def resolved(self, metric: float) -> float:
        """`metric`, or the resolution if it is smaller than that."""
        return self.resolution if abs(metric) < self.resolution else metric

    def reached(self, metric: float) -> bool:
        """Whether `metric` is at the target or better."""
        return metric >= self.target if self.higher_is_better else metric <= self.target


class Observe(Protocol):
    """What the runner hands to a method that owns its loop: data, clock, budget and records.

        while observe():                    # the weights are where an iteration begins
            optimizer.step(closure)         # closure: optimizer.zero_grad(); observe.evaluate()

    `observe()` stops the clock, writes down what is due, and says whether the budget allows
    another iteration. One that has begun may go over the budget. A solver that computes loss and
    gradient itself, on `batch`, calls `tell` each time; when it calls `observe()`, its point must
    be in the model.
    """

    def __call__(self) -> bool: ...

    @property
    def batch(self) -> Any:
        """The data of this iteration, loaded off the clock."""

    def evaluate(self) -> Tensor:
        """Loss and gradients on `batch`; spends one step of the budget."""

    def tell(self, loss: Tensor) -> None:
        """The method has computed loss and gradient; spends one step of the budget."""

    @property
    def rate(self) -> float:
        """By what to multiply the learning rate now: the budget's schedule, from 1 down."""


@dataclass(frozen=True)
class Attached:
    """A task made trainable by a method.

    `step` is all that lies between backward and the next forward. `stored` are the tensors that
    the optimizer moves and a checkpoint holds, `used` the weights that the forward multiplies with;
    both have the names of `Task.surfaces`. `originals` are parametrize's unconstrained tensors. The
    operators of a step that is not `eager` cannot be counted. With `solve` the method owns its
    loop, and `step` is not called.
    """

    optimizer: torch.optim.Optimizer | None
    step: Callable[[], object]
    stored: Callable[[], dict[str, Tensor]]
    used: Callable[[], dict[str, Tensor]]
    originals: Callable[[], dict[str, Tensor]] = dict
    forward_context: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    eager: bool = True
    solve: Callable[[Observe], None] | None = None

    def __post_init__(self) -> None:
        if self.optimizer is None and self.solve is None:
            raise ValueError("a method needs an optimizer or a loop of its own (`solve`)")

    @classmethod
    def to_stored_weights(
        cls,
        task: Task,
        optimizer: torch.optim.Optimizer | None,
        step: Callable[[], object] | None = None,
        **others: Any,
    ) -> Attached:
        """For methods whose stored weight is the one that the forward uses."""
        if step is None:
            step = optimizer.step if optimizer is not None else lambda: None
        return cls(optimizer, step, task.weights, task.weights, **others)

    def held(self, task: Task) -> list[Tensor]:
        """What stays between steps, as in a checkpoint: parameters, buffers, optimizer state."""
        state = tree_leaves(dict(self.optimizer.state)) if self.optimizer is not None else []
        tensors = [leaf for leaf in state if isinstance(leaf, Tensor)]
        return [*task.model.parameters(), *task.model.buffers(), *tensors]


class Skip(Exception):  # noqa: N818  (nothing went wrong)
    """A method does not apply, and why. `same_as` names the method that it would repeat."""

    def __init__(self, reason: str, same_as: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.same_as = reason, same_as


@dataclass(frozen=True)
class Stepping:
    """How `riemopt bench speed` times a method, on the workloads that `where` picks.

    `lr` is such that an entry of a step has a root mean square of about 1e-3; `options` are further
    arguments of `attach`. With `whole_step`, forward and backward are timed as well. `counterparts`
    are riemopt's methods that do the same work; times are divided by those of the first that was
    run. A `heavy` method forms n×n matrices or worse: one call of it is first tried in a process of
    its own, under a time limit.
    """

    lr: float
    where: Callable[[Workload], bool]
    counterparts: tuple[str, ...] = ()
    heavy: bool = False
    whole_step: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def applies_everywhere(case: Case) -> None:
    """A check that finds no reason to leave a method out."""


@dataclass(frozen=True)
class Method:
    """A way to keep (or not to keep) weights on their surfaces.

    `attach(task, lr)` makes a task trainable. `check` raises `Skip` where the method cannot or
    need not be run. `grid` holds the learning rates that the training benchmark tries, equally
    many for all methods; without any, the method is not part of it. `tuned_as` names a method with
    the same arithmetic, whose tuning is shared. `stepping` makes it part of the step benchmark.
    `packages` are those whose code is being measured: a new version means a new result.
    """

    name: str
    title: str
    family: str
    description: str
    attach: Callable[..., Attached]
    check: Callable[[Case], None] = applies_everywhere
    grid: tuple[float, ...] = ()
    tuned_as: str | None = None
    stepping: Stepping | None = None
    packages: tuple[str, ...] = ("torch",)
    constrained: bool = True

    def skip(self, case: Case) -> Skip | None:
        """Why the method is left out, if it is."""
        try:
            self.check(case)
        except Skip as skip:
            return skip
        return None

    @property
    def timed(self) -> Stepping:
        """`stepping`, of a method that has it."""
        if self.stepping is None:
            raise ValueError(f"{self.name!r} is not part of `riemopt bench speed`")
        return self.stepping

    def times(self, workload: Workload) -> bool:
        """Whether `riemopt bench speed` runs the method on that workload."""
        return self.timed.where(workload) and self.skip(workload) is None


def all_surfaces(attachment: Callable[[Surface], object]) -> Callable[[Case], None]:
    """A check for methods that apply where `attachment` raises no `Skip` for any surface."""

    def check(case: Case) -> None:
        for surface in sorted(case.surfaces, key=repr):
            attachment(surface)

    return check


def unknown(library: str, surface: Surface) -> Skip:
    """What the default of a library's `singledispatch` raises."""
    return Skip(f"{library} has no {type(surface).__name__} that this benchmark knows of")


ADAM_GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
SGD_GRID = ADAM_GRID
