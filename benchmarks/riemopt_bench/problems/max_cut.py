"""The semidefinite relaxation of max-cut, in factors.

    minimise  f(Y) = ⟨W, YYᵀ⟩  over n×p matrices Y with unit rows

W holds the weights of a random graph. The minimum is that of ⟨W, X⟩ over X ⪰ 0 with unit diagonal,
as p(p + 1)/2 > n (Burer & Monteiro 2003), and every local minimum is as deep (Boumal, Voroninski &
Bandeira 2016).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._known_minimum import GAP, normal, one_weight
from riemopt_bench.surfaces import Sphere

SIZE, RANK = 100, 15
MINIMUM = -1003.7307410217974
"""For `SIZE`, by `_minima.semidefinite_minimum`."""


@functools.cache
def graph(n: int) -> Tensor:
    """W: half of the edges have a weight, the absolute value of a standard normal number."""
    W = torch.triu(normal(8, n, n).abs() * (normal(9, n, n) > 0), 1)
    return W + W.mT


def cost(Y: Tensor, W: Tensor) -> Tensor:
    """⟨W, YYᵀ⟩."""
    return (Y * (W @ Y)).sum()


def build(seed: int) -> Task:
    """The graph is fixed; the seed draws the start."""
    start = Sphere().start(normal(seed, SIZE, RANK))
    return one_weight(Sphere(), start, cost, graph(SIZE), MINIMUM)


PROBLEMS = (
    Problem(
        name="max-cut",
        title="Max-cut relaxation",
        description=f"{SIZE} unit rows of {RANK}: the relaxed cut of a random graph.",
        metric=GAP,
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({Sphere()}),
        build=build,
        reference="The optimum is the dual bound of the semidefinite program.",
        bounded=False,
        full_batch=True,
        log_metric=True,
        resolution=1e-12,
        budget=Budget(1000),
    ),
)
