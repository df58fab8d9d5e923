"""torch's Adam without any constraint: what training and a step are when nothing has to be kept.

It starts from the same weights, which are on their surfaces, and is free to leave them. Training
leaves it out where the loss has no minimum without its constraints.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from riemopt_bench.interface import ADAM_GRID, Attached, Case, Method, Skip, Stepping, Task
from riemopt_bench.libraries._steps import ADAM_LR


def attach(task: Task, lr: float, **options: Any) -> Attached:
    """`torch.optim.Adam` on every parameter."""
    optimizer = torch.optim.Adam(task.model.parameters(), lr=lr, weight_decay=0, **options)
    return Attached.to_stored_weights(task, optimizer)


def check(case: Case) -> None:
    """A loss without a minimum cannot be trained without its constraints."""
    if not case.bounded:
        raise Skip("without its constraint the loss has no minimum")


def _stepping_method(kernel: str) -> Method:
    options: dict[str, Any] = {kernel: True}
    return Method(
        f"torch-adam-{kernel}",
        f"torch Adam, {kernel}",
        "unconstrained",
        f"torch.optim.Adam({kernel}=True), no constraint.",
        functools.partial(attach, **options),
        stepping=Stepping(
            ADAM_LR, lambda workload: True, (f"riemopt-adam-{kernel}", "riemopt-adam")
        ),
        constrained=False,
    )


METHODS = (
    Method(
        name="adam-unconstrained",
        title="Adam, no constraint",
        family="unconstrained",
        description="torch.optim.Adam with the constraints dropped: the reference for accuracy.",
        attach=attach,
        check=check,
        grid=ADAM_GRID,
        constrained=False,
    ),
    Method(
        name="torch-adam",
        title="torch Adam",
        family="unconstrained",
        description="torch.optim.Adam with its defaults on models, no constraint.",
        attach=attach,
        stepping=Stepping(ADAM_LR, lambda workload: workload.has_plain, ("riemopt-adam",)),
        constrained=False,
    ),
    _stepping_method("foreach"),
    _stepping_method("fused"),
)
