"""riemopt: the stored weight stays on its surface; one `constrain` per weight, one optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from riemopt_bench.interface import (
    ADAM_GRID,
    SGD_GRID,
    Attached,
    Constraint,
    Method,
    Task,
    owner,
    weights,
)


def _constrain_all(task: Task) -> None:
    from riemopt import constrain
    from riemopt.manifolds import Manifold, Sphere, Stiefel, Symmetric

    def manifold(constraint: Constraint) -> Manifold:
        if constraint.kind == "stiefel":
            return Stiefel()
        return Symmetric() if constraint.kind == "symmetric" else Sphere(dim=constraint.dim)

    for name, constraint in task.constraints.items():
        constrain(*owner(task.model, name), manifold(constraint))


def _attached(task: Task, make: Callable[[], torch.optim.Optimizer]) -> Attached:
    _constrain_all(task)
    optimizer = make()
    current = functools.partial(weights, task)
    return Attached(optimizer, optimizer.step, stored=current, used=current)


def attach_adam(task: Task, lr: float) -> Attached:
    """`RiemannianAdam` with its defaults."""
    from riemopt import RiemannianAdam

    return _attached(task, lambda: RiemannianAdam(task.model.parameters(), lr=lr, weight_decay=0))


def attach_sgd(task: Task, lr: float) -> Attached:
    """`RiemannianSGD` with momentum 0.9."""
    from riemopt import RiemannianSGD

    return _attached(
        task,
        lambda: RiemannianSGD(task.model.parameters(), lr=lr, momentum=0.9, weight_decay=0),
    )


METHODS = (
    Method(
        name="riemopt-adam",
        title="riemopt Adam",
        family="riemopt",
        description="riemopt.RiemannianAdam: tangent gradients, the stored weight is constrained.",
        attach=attach_adam,
        grid=ADAM_GRID,
        packages=("torch", "riemopt"),
    ),
    Method(
        name="riemopt-sgd",
        title="riemopt SGD",
        family="riemopt",
        description="riemopt.RiemannianSGD with momentum 0.9.",
        attach=attach_sgd,
        grid=SGD_GRID,
        packages=("torch", "riemopt"),
    ),
)
