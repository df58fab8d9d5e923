"""A matrix of low rank from some of its entries."""

import numpy as np
import torch

from full_batch_problems.interface import FullBatch, Theirs, normal
from riemopt.manifolds import FixedRank


def completion(n: int = 300, rank: int = 5, oversampling: float = 4.0) -> FullBatch:
    """½‖P_Ω(X - M)‖² over matrices of M's rank; the minimum is 0 (Vandereycken 2013, §5).

    Ω has `oversampling` times as many entries as X has degrees of freedom.
    """
    M = normal(12, n, rank) @ normal(13, rank, n)
    count = int(oversampling * rank * (2 * n - rank))
    gen = torch.Generator().manual_seed(14)
    known = torch.randperm(n * n, generator=gen)[:count]
    rows, columns, values = known // n, known % n, M.flatten()[known]

    def cost(X: torch.Tensor) -> torch.Tensor:
        return (X.flatten()[known] - values).square().sum() / 2

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
        cost,
        0.0,
        theirs,
    )
