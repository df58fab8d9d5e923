"""A soft penalty: the loss plus λ·‖c(W)‖², with torch's Adam and no constraint.

c(W) is the residual of the surface's equations. For WᵀW = I it is the soft orthogonality of
Bansal, Chen & Wang (2018), λ·‖WᵀW - I‖². A small λ leaves the weight off the surface; a large one
makes the problem ill-conditioned.
"""

from __future__ import annotations

import functools

import torch

from riemopt_bench.interface import ADAM_GRID, Attached, Method, Task

WEIGHTS = (1, 100)


def add_gradient(task: Task, strength: float) -> None:
    """Add the penalty's gradient to that of the loss. Its cost is the optimizer's."""
    weights = task.weights()
    with torch.enable_grad():
        squares = [task.surfaces[n].residual(w).square().sum() for n, w in weights.items()]
        (strength * torch.stack(squares).sum()).backward(inputs=list(weights.values()))


def attach(task: Task, lr: float, *, strength: float) -> Attached:
    """Torch's Adam on the penalised loss."""
    optimizer = torch.optim.Adam(task.model.parameters(), lr=lr, weight_decay=0)

    def step() -> None:
        add_gradient(task, strength)
        optimizer.step()

    return Attached.to_stored_weights(task, optimizer, step)


METHODS = tuple(
    Method(
        name=f"penalty-{strength}",
        title=f"penalty {strength}, Adam",
        family="penalty",
        description=f"torch.optim.Adam on the loss + {strength}·‖c(W)‖², c(W) = 0 the surface's "
        "equations: near the surface, not on it.",
        attach=functools.partial(attach, strength=float(strength)),
        grid=ADAM_GRID,
        constrained=False,
    )
    for strength in WEIGHTS
)
