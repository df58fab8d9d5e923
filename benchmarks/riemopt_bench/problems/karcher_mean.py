"""The mean of positive definite matrices in the affine-invariant metric.

    minimise  f(X) = Σᵢ d(X, Aᵢ)²/2k,   d(X, A) = ‖log A^(-½) X A^(-½)‖

The problem is geodesically convex, and has one minimum (Moakher 2005).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._known_minimum import GAP, normal, one_weight
from riemopt_bench.surfaces import PositiveDefinite

SIDE, COUNT = 5, 10
MINIMUM = 2.008482365170027
"""For `COUNT` matrices of `SIDE`, at the fixed point of `_minima.mean_by_fixed_point`."""


def samples(seed: int, *shape: int) -> Tensor:
    """Random matrices, (*shape, n) → (*shape, n, n), with eigenvalues from 0.1 to 10 or so."""
    *batch, n = shape
    Q = torch.linalg.qr(normal(seed, *batch, n, n))[0]
    A = (Q * normal(seed + 1, *batch, 1, n).exp()) @ Q.mT
    return (A + A.mT) / 2


@functools.cache
def matrices(k: int, n: int) -> Tensor:
    """A₁, …, A_k, of shape (k, n, n)."""
    return samples(11, k, n)


@functools.cache
def factors(k: int, n: int) -> Tensor:
    """Lᵢ with LᵢLᵢᵀ = Aᵢ."""
    return torch.linalg.cholesky(matrices(k, n))


def cost(X: Tensor, L: Tensor) -> Tensor:
    """Σᵢ d(X, LᵢLᵢᵀ)²/2k, of X `(*batch, n, n)` and L `(*batch, k, n, n)`."""
    half = torch.linalg.solve_triangular(L, X.unsqueeze(-3), upper=False)
    whole = torch.linalg.solve_triangular(L, half.mT, upper=False)
    values = torch.linalg.eigvalsh((whole + whole.mT) / 2)
    return values.log().square().sum((-2, -1)) / (2 * L.shape[-3])


def build(seed: int) -> Task:
    """The matrices are fixed; the start is drawn as they were, but from the seed."""
    start = samples(seed, SIDE)
    return one_weight(PositiveDefinite(), start, cost, factors(COUNT, SIDE), MINIMUM)


PROBLEMS = (
    Problem(
        name="karcher-mean",
        title="Mean of positive definite matrices",
        description=f"The affine-invariant mean of {COUNT} matrices of {SIDE}×{SIDE}.",
        metric=GAP,
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({PositiveDefinite()}),
        build=build,
        reference="The optimum is that of the fixed-point iteration for the mean.",
        full_batch=True,
        log_metric=True,
        resolution=1e-13,
        budget=Budget(500),
    ),
)
