"""Many rotations of space at once, each as near as it can be to a matrix of its own.

    minimise  f(R) = -Σᵢ tr RᵢᵀMᵢ  over rotations R₁, …, R_k

which is the same as minimising Σᵢ ‖Rᵢ - Mᵢ‖². The minimum of each is -(σ₁ + … + s·σ_n) of the
singular values of Mᵢ, where s is the sign of its determinant (Kabsch 1976). The Mᵢ are standard
normal: half of them are nearest to a reflection.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._known_minimum import GAP, normal, one_weight
from riemopt_bench.surfaces import Rotation

COUNT, SIDE = 50, 3


@functools.cache
def targets(k: int, n: int) -> Tensor:
    """M₁, …, M_k, of shape (k, n, n)."""
    return normal(5, k, n, n)


def costs(R: Tensor, M: Tensor) -> Tensor:
    """-tr RᵢᵀMᵢ, of each rotation."""
    return -(R * M).sum((-2, -1))


def cost(R: Tensor, M: Tensor) -> Tensor:
    """Their sum."""
    return costs(R, M).sum()


def minima(M: Tensor) -> Tensor:
    """Of `costs`, for each matrix."""
    sigma = torch.linalg.svdvals(M)
    sigma[..., -1] *= torch.linalg.det(M).sign()
    return -sigma.sum(-1)


def build(seed: int) -> Task:
    """The matrices are fixed; the seed draws the start."""
    M = targets(COUNT, SIDE)
    start = Rotation().start(normal(seed, COUNT, SIDE, SIDE))
    return one_weight(Rotation(), start, cost, M, minima(M).sum().item())


PROBLEMS = (
    Problem(
        name="procrustes",
        title="Procrustes",
        description=f"{COUNT} rotations of {SIDE}×{SIDE}, each nearest to a random matrix.",
        metric=GAP,
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({Rotation()}),
        build=build,
        reference="The optimum follows from singular values and the sign of the determinant.",
        bounded=False,
        full_batch=True,
        log_metric=True,
        resolution=1e-13,
        budget=Budget(500),
    ),
)
