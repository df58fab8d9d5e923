"""The least that a step on a Stiefel manifold can cost.

Four products of the size of XᵀG, into memory that is there, and torch's fused Adam on the tensors.
Separate matrices of one shape are multiplied as one batch: whoever stacks them pays more than this.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from riemopt_bench.speed.interface import Attached, Method, Start
from riemopt_bench.speed.methods._common import (
    ADAM_LR,
    only,
    stepped,
    unconstrained,
    with_gradients,
)

PRODUCTS = 4


def attach(starts: Sequence[Start]) -> Attached:
    """The products of each set of equal shape, then the fused step."""
    params = [nn.Parameter(start.point.clone()) for start in starts]
    with_gradients(starts, params)
    optimizer = torch.optim.Adam(params, lr=ADAM_LR, fused=True)
    triples = [_operands(group) for group in _by_shape(starts)]
    multiply = [torch.bmm if x.ndim == 3 else torch.mm for x, _, _ in triples]

    def call() -> None:
        with torch.no_grad():
            for product, (x, g, out) in zip(multiply, triples, strict=True):
                for _ in range(PRODUCTS):
                    product(x, g, out=out)
        optimizer.step()

    return unconstrained(stepped(starts, params, optimizer, call))


def _by_shape(starts: Sequence[Start]) -> list[list[Start]]:
    groups: dict[tuple[int, ...], list[Start]] = {}
    for start in starts:
        groups.setdefault(start.item.shape, []).append(start)
    return list(groups.values())


def _operands(group: Sequence[Start]) -> tuple[Tensor, Tensor, Tensor]:
    """Xᵀ, G and the p×p result; for a wide matrix X and Gᵀ."""

    def stacked(tensors: Sequence[Tensor]) -> Tensor:
        matrices = [t.flatten(1) if t.ndim == 4 else t for t in tensors]
        if len(matrices) == 1:
            return matrices[0].clone()
        return torch.stack(matrices)

    x = stacked([start.point for start in group])
    g = stacked([start.gradient for start in group])
    wide = x.shape[-2] < x.shape[-1]
    left, right = (x, g.mT) if wide else (x.mT, g)
    return left, right, left @ right


METHODS = (
    Method(
        "floor",
        "floor",
        "floor",
        "Four products of the size of XᵀG and torch's fused Adam.",
        attach,
        only("stiefel"),
        ("riemopt-adam",),
    ),
)
