"""The span of the leading eigenvectors of a random symmetric matrix: a point of a Grassmannian.

    minimise  f(X) = -tr XᵀAX  over n×p matrices with XᵀX = I

f(XQ) = f(X) for every orthogonal Q. A is ½(G + Gᵀ) of a standard normal G. The minimum is minus the
sum of the p largest eigenvalues.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._known_minimum import GAP, normal, one_weight, symmetric
from riemopt_bench.surfaces import Subspace

SIZE, DIMENSION = 80, 8

matrix = functools.cache(functools.partial(symmetric, 2))
"""A, of n rows."""


def cost(X: Tensor, A: Tensor) -> Tensor:
    """-tr XᵀAX."""
    return -(X * (A @ X)).sum()


@functools.cache
def minimum(n: int, p: int) -> float:
    """Over subspaces of p dimensions of n."""
    return -torch.linalg.eigvalsh(matrix(n))[-p:].sum().item()


def build(seed: int) -> Task:
    """The matrix is fixed; the seed draws the start."""
    start = Subspace().start(normal(seed, SIZE, DIMENSION))
    return one_weight(Subspace(), start, cost, matrix(SIZE), minimum(SIZE, DIMENSION))


PROBLEMS = (
    Problem(
        name="dominant-subspace",
        title="Dominant subspace",
        description=f"The {DIMENSION} leading eigenvectors of a random symmetric {SIZE}×{SIZE} "
        "matrix, in any basis.",
        metric=GAP,
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({Subspace()}),
        build=build,
        reference=f"The optimum is minus the sum of the {DIMENSION} largest eigenvalues.",
        bounded=False,
        full_batch=True,
        log_metric=True,
        resolution=1e-13,
        budget=Budget(300),
    ),
)
