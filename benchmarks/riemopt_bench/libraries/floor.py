"""The least that a step on a Stiefel manifold can cost.

Four products of the size of XᵀG, into memory that is there, and torch's fused Adam on the tensors.
Separate matrices of one shape are multiplied as one batch: a method that stacks them pays more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from riemopt_bench.interface import Attached, Method, Stepping, Task
from riemopt_bench.libraries._steps import ADAM_LR
from riemopt_bench.surfaces import Stiefel

PRODUCTS = 4


def attach(task: Task, lr: float) -> Attached:
    """The products of each set of equal shape, then the fused step."""
    optimizer = torch.optim.Adam(task.model.parameters(), lr=lr, fused=True)
    groups: dict[tuple[int, ...], list[Tensor]] = {}
    for name, surface in task.surfaces.items():
        if isinstance(surface, Stiefel):
            tall = surface.tall(task.weight(name).detach())
            groups.setdefault(tuple(tall.shape), []).append(tall)
    triples = [_operands(matrices) for matrices in groups.values()]
    multiply = [torch.bmm if x.ndim == 3 else torch.mm for x, _, _ in triples]

    def step() -> None:
        with torch.no_grad():
            for product, (x, g, out) in zip(multiply, triples, strict=True):
                for _ in range(PRODUCTS):
                    product(x, g, out=out)
        optimizer.step()

    return Attached.to_stored_weights(task, optimizer, step)


def _operands(matrices: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Xᵀ, some G and the p×p result, in the layout of the weights."""
    x = matrices[0].clone() if len(matrices) == 1 else torch.stack(matrices)
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    g = torch.empty_like(x).copy_(g)
    return x.mT, g, x.mT @ g


METHODS = (
    Method(
        name="floor",
        title="floor",
        family="floor",
        description="Four products of the size of XᵀG and torch's fused Adam.",
        attach=attach,
        stepping=Stepping(ADAM_LR, lambda workload: workload.is_only(Stiefel), ("riemopt-adam",)),
        constrained=False,
    ),
)
