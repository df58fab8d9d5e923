"""What a benchmark problem and a benchmark method are.

A problem describes a training task with constrained weights, and knows nothing of how a
constraint is kept: its weights are plain parameters that start on their surface, and a table says
which surface. A method takes such a task and makes it trainable. The runner does the rest.

    PROBLEM = Problem(name="pca", ..., build=build)          # problems/pca.py
    METHODS = (Method(name="adam", ..., attach=attach),)     # methods/unconstrained.py
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["stiefel", "symmetric", "sphere"]


@dataclass(frozen=True)
class Constraint:
    """The surface that a weight lives on, in words that belong to no method.

    `stiefel`: a tall or square matrix with orthonormal columns, WᵀW = I.
    `symmetric`: the last two dimensions are a symmetric matrix, W = Wᵀ.
    `sphere`: every slice along `dim` has norm one.
    """

    kind: Kind
    dim: int = -1

    def violation(self, weight: Tensor) -> float:
        """Largest residual of the constraint's equations, computed in float64.

        Written here and not taken from any method, so that no method is judged by its own ruler.
        """
        w = weight.detach().double()
        if self.kind == "stiefel":
            residual = w.mT @ w - torch.eye(w.shape[-1], dtype=w.dtype)
        elif self.kind == "symmetric":
            residual = w - w.mT
        else:
            residual = torch.linalg.vector_norm(w, dim=self.dim) - 1
        return residual.abs().max().item()

    def nearest(self, weight: Tensor) -> Tensor:
        """The point of the surface nearest to `weight`: polar factor by SVD, sym, x/‖x‖."""
        if self.kind == "stiefel":
            left, _, right = torch.linalg.svd(weight, full_matrices=False)
            return left @ right
        if self.kind == "symmetric":
            return (weight + weight.mT) / 2
        return weight / torch.linalg.vector_norm(weight, dim=self.dim, keepdim=True)


@dataclass(frozen=True)
class Evaluation:
    """`metric` is what the page shows; `selection` (lower is better) picks the learning rate."""

    metric: float
    selection: float


@dataclass(frozen=True)
class Task:
    """A training task, built from a seed alone, before any method has touched it.

    `constraints` names parameters of `model` as `model.named_parameters()` does. `batch(t)` is a
    function of the step `t` only: every method sees the same data in the same order.
    """

    model: nn.Module
    constraints: Mapping[str, Constraint]
    batch: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], Evaluation]


@dataclass(frozen=True)
class Problem:
    """A task family and how its result is judged.

    `kinds` are the constraints that occur. `bounded` says whether the loss has a minimum when the
    constraints are dropped. `target` is the metric value for time-to-target. Metric values smaller
    than `resolution` are rounding and count as equal.
    """

    name: str
    title: str
    description: str
    metric: str
    higher_is_better: bool
    target: float
    kinds: frozenset[Kind]
    build: Callable[[int], Task]
    bounded: bool = True
    log_metric: bool = False
    resolution: float = 0.0

    def resolved(self, metric: float) -> float:
        """`metric`, or the resolution if it is smaller than that."""
        return self.resolution if abs(metric) < self.resolution else metric

    def reached(self, metric: float) -> bool:
        """Whether `metric` is at the target or better."""
        return metric >= self.target if self.higher_is_better else metric <= self.target


@dataclass(frozen=True)
class Attached:
    """A task made trainable by a method.

    `step` is everything between backward and the next forward. `stored` are the tensors that the
    optimizer moves and a checkpoint holds, `used` the weights that the forward multiplies with,
    both keyed as `Task.constraints`. `originals` are parametrize's unconstrained tensors.
    """

    optimizer: torch.optim.Optimizer
    step: Callable[[], None]
    stored: Callable[[], dict[str, Tensor]]
    used: Callable[[], dict[str, Tensor]]
    forward_context: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    originals: Callable[[], dict[str, Tensor]] = dict


@dataclass(frozen=True)
class Skip:
    """Why a method is left out of a problem. `same_as` names the method that it would repeat."""

    reason: str
    same_as: str | None = None


def _never(_: Problem) -> Skip | None:
    return None


@dataclass(frozen=True)
class Method:
    """A way to keep (or not to keep) constraints while training.

    `attach(task, lr)` makes a task trainable. `grid` holds the learning rates that are tried; all
    methods try equally many. `tuned_as` names a method with the same arithmetic, whose tuning is
    shared. `packages` are those whose code is being measured: a new version means a new result.
    """

    name: str
    title: str
    family: Literal["riemopt", "parametrize", "geoopt", "projection", "unconstrained"]
    description: str
    attach: Callable[[Task, float], Attached]
    grid: tuple[float, ...]
    skip: Callable[[Problem], Skip | None] = field(default=_never)
    tuned_as: str | None = None
    packages: tuple[str, ...] = ("torch",)
    constrained: bool = True


ADAM_GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
SGD_GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds the parameter called `name`, and the parameter's name in it."""
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def weights(task: Task) -> dict[str, Tensor]:
    """The constrained weights as attributes of their modules: what the forward uses."""
    return {name: getattr(*owner(task.model, name)) for name in task.constraints}
