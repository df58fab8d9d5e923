"""The Karcher mean of positive definite matrices."""

import functools
from collections.abc import Callable

import torch
from riemopt_bench.problems._minima import mean_by_fixed_point
from riemopt_bench.problems.karcher_mean import cost as mean_square
from riemopt_bench.problems.karcher_mean import matrices

from full_batch_problems.interface import FullBatch, as_it_is
from riemopt.manifolds import SPD


def karcher_mean(n: int = 5, k: int = 10) -> FullBatch:
    """Of k matrices, n×n, in the affine-invariant metric."""
    A = matrices(k, n)
    cost = squared_distances(A)

    def theirs():
        from pymanopt.manifolds import SymmetricPositiveDefinite

        return as_it_is(SymmetricPositiveDefinite(n), cost)

    def geoopt():
        import geoopt

        return geoopt.SymmetricPositiveDefinite()

    mean = torch.from_numpy(mean_by_fixed_point(A.numpy()))
    return FullBatch(
        "karcher_mean",
        f"Karcher mean of {k} matrices, SPD {n}×{n}",
        SPD("affine"),
        (n, n),
        cost,
        float(cost(mean)),
        theirs,
        geoopt,
    )


def squared_distances(A: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """X ↦ Σᵢ d(X, Aᵢ)²/2k, of A `(*batch, k, n, n)` and X `(*batch, n, n)`."""
    return functools.partial(mean_square, L=torch.linalg.cholesky(A))
