"""The least eigenvectors of a random symmetric matrix, in their order: Brockett's cost.

    minimise  f(X) = tr XᵀAXN  over n×p matrices with XᵀX = I,  N = diag(1, …, p)

The weights make the columns differ. The minimum pairs the largest weight with the least eigenvalue
of A (Absil, Mahony & Sepulchre 2008, §4.8); A is ½(G + Gᵀ) of a standard normal G.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._known_minimum import GAP, normal, one_weight, symmetric
from riemopt_bench.surfaces import Stiefel

SIZE, COLUMNS = 50, 5

matrix = functools.cache(functools.partial(symmetric, 3))
"""A, of n rows."""


@functools.cache
def weights(p: int) -> Tensor:
    """The diagonal of N."""
    return torch.arange(1, p + 1, dtype=torch.float64)


def cost(X: Tensor, data: tuple[Tensor, Tensor]) -> Tensor:
    """tr XᵀAXN, of (A, the diagonal of N)."""
    A, N = data
    return (X * (A @ X) * N).sum()


@functools.cache
def minimum(n: int, p: int) -> float:
    """Over n×p matrices."""
    least = torch.linalg.eigvalsh(matrix(n))[:p]
    return (least * weights(p).flip(0)).sum().item()


def build(seed: int) -> Task:
    """The matrix is fixed; the seed draws the start."""
    start = Stiefel().start(normal(seed, SIZE, COLUMNS))
    data = matrix(SIZE), weights(COLUMNS)
    return one_weight(Stiefel(), start, cost, data, minimum(SIZE, COLUMNS))


PROBLEMS = (
    Problem(
        name="brockett",
        title="Brockett's cost",
        description=f"The {COLUMNS} least eigenvectors of a random symmetric {SIZE}×{SIZE} matrix, "
        "in order.",
        metric=GAP,
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({Stiefel()}),
        build=build,
        reference="The optimum pairs the weights with the least eigenvalues, in opposite order.",
        bounded=False,
        full_batch=True,
        log_metric=True,
        resolution=1e-13,
        budget=Budget(400),
    ),
)
