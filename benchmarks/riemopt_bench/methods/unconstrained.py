"""Adam with no constraint at all: the reference for accuracy, and for the time a step must take.

It starts from the same weights, which are on their surfaces, and is free to leave them. Left out
where the loss has no minimum without its constraints.
"""

from __future__ import annotations

import functools

import torch

from riemopt_bench.interface import ADAM_GRID, Attached, Method, Problem, Skip, Task, weights


def attach(task: Task, lr: float) -> Attached:
    """Torch's Adam on every parameter."""
    optimizer = torch.optim.Adam(task.model.parameters(), lr=lr, weight_decay=0)
    current = functools.partial(weights, task)
    return Attached(optimizer, optimizer.step, stored=current, used=current)


def skip(problem: Problem) -> Skip | None:
    """A loss without a minimum cannot be trained without its constraints."""
    if problem.bounded:
        return None
    return Skip("without its constraint the loss has no minimum")


METHODS = (
    Method(
        name="adam-unconstrained",
        title="Adam, no constraint",
        family="unconstrained",
        description="torch.optim.Adam with the constraints dropped: the reference for accuracy.",
        attach=attach,
        grid=ADAM_GRID,
        skip=skip,
        constrained=False,
    ),
)
