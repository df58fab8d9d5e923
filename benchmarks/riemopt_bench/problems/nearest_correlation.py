"""The correlation matrix that is nearest to a symmetric matrix, in factors.

    minimise  f(Y) = ½‖YYᵀ - A‖²  over square matrices Y with unit rows

A has a unit diagonal and entries between -1 and 1, and is far from positive semidefinite. The
minimum is that of ½‖X - A‖² over X ⪰ 0 with unit diagonal, a convex problem (Higham 2002) whose
dual has one variable for each row (Malick 2004; Qi & Sun 2006).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._known_minimum import GAP, normal, one_weight
from riemopt_bench.surfaces import Sphere

SIZE = 50
MINIMUM = 352.08919921890475
"""For `SIZE`, by `_minima.nearest_correlation_minimum`."""


@functools.cache
def matrix(n: int) -> Tensor:
    """A."""
    A = normal(10, n, n).clamp(-1, 1)
    return torch.triu(A, 1) + torch.triu(A, 1).mT + torch.eye(n, dtype=A.dtype)


def cost(Y: Tensor, A: Tensor) -> Tensor:
    """½‖YYᵀ - A‖²."""
    return (Y @ Y.mT - A).square().sum() / 2


def build(seed: int) -> Task:
    """The matrix is fixed; the seed draws the start."""
    start = Sphere().start(normal(seed, SIZE, SIZE))
    return one_weight(Sphere(), start, cost, matrix(SIZE), MINIMUM)


PROBLEMS = (
    Problem(
        name="nearest-correlation",
        title="Nearest correlation matrix",
        description=f"The nearest correlation matrix to a random {SIZE}×{SIZE} matrix.",
        metric=GAP,
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({Sphere()}),
        build=build,
        reference="The optimum is that of the dual of the convex problem.",
        full_batch=True,
        log_metric=True,
        resolution=1e-12,
        budget=Budget(1000),
    ),
)
