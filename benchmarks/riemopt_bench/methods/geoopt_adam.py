"""geoopt's RiemannianAdam with EuclideanStiefel and Sphere.

geoopt has no manifold of plain symmetric matrices. Here such a weight is an ordinary parameter
whose gradient is symmetrised before the step: elementwise Adam on a symmetric gradient keeps a
symmetric weight symmetric. That line runs on the optimizer's clock.
"""

from __future__ import annotations

import functools
from typing import cast

import torch
from torch import nn

from riemopt_bench.interface import ADAM_GRID, Attached, Constraint, Method, Task, owner, weights


def attach(task: Task, lr: float) -> Attached:
    """Replace constrained parameters by geoopt's, and give the model to geoopt's optimizer."""
    import geoopt

    for name, constraint in task.constraints.items():
        if constraint.kind == "symmetric":
            continue
        module, attribute = owner(task.model, name)
        manifold = geoopt.Sphere() if _is_last_dim_sphere(constraint) else geoopt.EuclideanStiefel()
        value = getattr(module, attribute).detach()
        setattr(module, attribute, geoopt.ManifoldParameter(value, manifold=manifold))

    optimizer = cast(
        torch.optim.Optimizer,
        geoopt.optim.RiemannianAdam(task.model.parameters(), lr=lr, weight_decay=0),
    )
    symmetric = [
        cast(nn.Parameter, weights(task)[name])
        for name, constraint in task.constraints.items()
        if constraint.kind == "symmetric"
    ]

    def step() -> None:
        for weight in symmetric:
            if weight.grad is not None:
                weight.grad = (weight.grad + weight.grad.mT) / 2
        optimizer.step()

    current = functools.partial(weights, task)
    return Attached(optimizer, step, stored=current, used=current)


def _is_last_dim_sphere(constraint: Constraint) -> bool:
    if constraint.kind == "sphere" and constraint.dim != -1:
        raise ValueError(f"geoopt.Sphere works along dim -1 only; got dim {constraint.dim}")
    return constraint.kind == "sphere"


METHODS = (
    Method(
        name="geoopt-adam",
        title="geoopt RiemannianAdam",
        family="geoopt",
        description="geoopt's RiemannianAdam on EuclideanStiefel and Sphere parameters.",
        attach=attach,
        grid=ADAM_GRID,
        packages=("torch", "geoopt"),
    ),
)
