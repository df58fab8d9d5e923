"""Projection after a plain Adam step: move as if unconstrained, then go to the nearest point.

The projection (polar factor by SVD, symmetric part, x/‖x‖) is part of the optimizer's time. Adam's
moments know nothing of the constraint.
"""

from __future__ import annotations

import torch

from riemopt_bench.interface import ADAM_GRID, Attached, Method, Task


def attach(task: Task, lr: float) -> Attached:
    """Torch's Adam; then every constrained weight becomes its nearest point, in place."""
    optimizer = torch.optim.Adam(task.model.parameters(), lr=lr, weight_decay=0)

    @torch.no_grad()
    def step() -> None:
        optimizer.step()
        for name, weight in task.weights().items():
            weight.copy_(task.surfaces[name].nearest(weight))

    return Attached.to_stored_weights(task, optimizer, step)


METHODS = (
    Method(
        name="project-after-adam",
        title="Adam, then project",
        family="projection",
        description="A plain Adam step, then the nearest point (SVD, symmetric part, x/‖x‖).",
        attach=attach,
        grid=ADAM_GRID,
    ),
)
