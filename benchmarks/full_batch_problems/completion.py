"""A matrix of low rank from some of its entries."""

import functools

import numpy as np
import torch
from riemopt_bench.problems.completion import cost, entries

from full_batch_problems.interface import FullBatch, Theirs
from riemopt.manifolds import FixedRank


def completion(n: int = 300, rank: int = 5, oversampling: float = 4.0) -> FullBatch:
    """Known entries, `oversampling` times as many as X has degrees of freedom."""
    data = entries(n, rank, oversampling)
    known, values = data
    rows, columns = known // n, known % n

    def cost_of_factors(U: torch.Tensor, s: torch.Tensor, Vt: torch.Tensor) -> torch.Tensor:
        entries = ((U * s)[rows] * Vt.mT[columns]).sum(-1)
        return (entries - values).square().sum() / 2

    def theirs():
        from pymanopt.manifolds import FixedRankEmbedded

        manifold = FixedRankEmbedded(n, n, rank)
        kind = type(manifold.random_point())

        def point(x: np.ndarray):
            U, s, Vt = np.linalg.svd(x)
            parts = U[:, :rank], s[:rank], Vt[:rank]
            return kind(*(np.ascontiguousarray(part) for part in parts))

        return Theirs(manifold, cost_of_factors, point, lambda p: (p[0] * p[1]) @ p[2])

    return FullBatch(
        "completion",
        f"Low-rank completion, {n}×{n} of rank {rank}",
        FixedRank(rank),
        (n, n),
        functools.partial(cost, data=data),
        0.0,
        theirs,
    )
