"""Projection after a plain step: move as if unconstrained, then go to the nearest point.

The projection (polar factor by SVD, symmetric part, x/‖x‖, ...) is part of the optimizer's time.
The optimizer's moments know nothing of the constraint.
"""

from __future__ import annotations

import functools

import torch

from riemopt_bench.interface import ADAM_GRID, Attached, Method, Task
from riemopt_bench.libraries._steps import MOMENTUM, Rule


def attach(task: Task, lr: float, *, rule: Rule) -> Attached:
    """Torch's optimizer; then every constrained weight becomes its nearest point, in place."""
    parameters = task.model.parameters()
    optimizer: torch.optim.Optimizer
    if rule == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM)
    else:
        optimizer = torch.optim.Adam(parameters, lr=lr, weight_decay=0)

    @torch.no_grad()
    def step() -> None:
        optimizer.step()
        for name, weight in task.weights().items():
            weight.copy_(task.surfaces[name].nearest(weight))

    return Attached.to_stored_weights(task, optimizer, step)


def _method(rule: Rule, plain: str) -> Method:
    return Method(
        name=f"project-after-{rule}",
        title=f"{plain}, then project",
        family="projection",
        description=f"A plain step of {plain}, then the nearest point of the surface (SVD, "
        "symmetric part, x/‖x‖, ...).",
        attach=functools.partial(attach, rule=rule),
        grid=ADAM_GRID,
    )


METHODS = (_method("adam", "Adam"), _method("sgd", "SGD"))
