"""The leading eigenvector of a random symmetric matrix.

    minimise  f(x) = -xᵀAx  over ‖x‖ = 1

A is ½(G + Gᵀ) of a standard normal G, whose largest eigenvalues lie close together. The minimum is
-λ_max (Absil, Mahony & Sepulchre 2008, §2.1).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._known_minimum import GAP, normal, one_weight, symmetric
from riemopt_bench.surfaces import Sphere

SIZE = 200

matrix = functools.cache(functools.partial(symmetric, 1))
"""A, of n rows."""


def cost(x: Tensor, A: Tensor) -> Tensor:
    """-xᵀAx."""
    return -(x @ (A @ x))


@functools.cache
def minimum(n: int) -> float:
    """Over vectors of n entries."""
    return -torch.linalg.eigvalsh(matrix(n))[-1].item()


def build(seed: int) -> Task:
    """The matrix is fixed; the seed draws the start."""
    start = Sphere().start(normal(seed, SIZE))
    return one_weight(Sphere(), start, cost, matrix(SIZE), minimum(SIZE))


PROBLEMS = (
    Problem(
        name="rayleigh",
        title="Rayleigh quotient",
        description=f"The leading eigenvector of a random symmetric {SIZE}×{SIZE} matrix.",
        metric=GAP,
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({Sphere()}),
        build=build,
        reference="The optimum is minus the largest eigenvalue.",
        bounded=False,
        full_batch=True,
        log_metric=True,
        resolution=1e-13,
        budget=Budget(1000),
    ),
)
