"""A matrix of low rank from some of its entries.

    minimise  f(X) = ½‖P_Ω(X - M)‖²  over matrices of the rank of M

Ω has four times as many entries as X has degrees of freedom, drawn at random. The minimum is 0, at
M (Vandereycken 2013, §5).
"""

from __future__ import annotations

import functools

import torch
from torch import Generator, Tensor

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._known_minimum import normal, one_weight
from riemopt_bench.surfaces import LowRank

SIZE, RANK, OVERSAMPLING = 80, 5, 4.0


@functools.cache
def entries(n: int, rank: int, oversampling: float) -> tuple[Tensor, Tensor]:
    """Where in the flattened matrix the known entries are, and their values."""
    M = normal(12, n, rank) @ normal(13, rank, n)
    count = int(oversampling * rank * (2 * n - rank))
    known = torch.randperm(n * n, generator=Generator().manual_seed(14))[:count]
    return known, M.flatten()[known]


def cost(X: Tensor, data: tuple[Tensor, Tensor]) -> Tensor:
    """½‖P_Ω(X - M)‖², of `entries`."""
    known, values = data
    return (X.flatten()[known] - values).square().sum() / 2


def build(seed: int) -> Task:
    """The matrix and its known entries are fixed; the seed draws the start."""
    surface = LowRank(RANK)
    start = surface.start(normal(seed, SIZE, SIZE))
    return one_weight(surface, start, cost, entries(SIZE, RANK, OVERSAMPLING), 0.0)


PROBLEMS = (
    Problem(
        name="completion",
        title="Low-rank completion",
        description=f"A {SIZE}×{SIZE} matrix of rank {RANK} from "
        f"{int(OVERSAMPLING * RANK * (2 * SIZE - RANK)):,} of its entries.",
        metric="f",
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({LowRank(RANK)}),
        build=build,
        reference="The entries are those of a matrix of that rank: the optimum is 0.",
        full_batch=True,
        log_metric=True,
        resolution=1e-20,
        budget=Budget(400),
    ),
)
