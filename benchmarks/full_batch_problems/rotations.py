"""Products of rotations, and one rotation that makes many matrices diagonal."""

import functools

from riemopt_bench.problems import ica
from riemopt_bench.problems import procrustes as turns

from full_batch_problems.interface import FullBatch, as_it_is, off_stiefel
from riemopt.manifolds import SpecialOrthogonal, Stiefel


def procrustes(k: int = 50, n: int = 3) -> FullBatch:
    """Of k rotations, n×n."""
    M = turns.targets(k, n)
    cost = functools.partial(turns.cost, M=M)

    def theirs():
        from pymanopt.manifolds import SpecialOrthogonalGroup

        return as_it_is(SpecialOrthogonalGroup(n, k=k), cost)

    return FullBatch(
        "procrustes",
        f"Procrustes, {k} rotations of {n}×{n}",
        SpecialOrthogonal(),
        (k, n, n),
        cost,
        float(turns.minima(M).sum()),
        theirs,
        None,
        off_stiefel,
    )


def joint_diagonalisation(n: int = 10, k: int = 20) -> FullBatch:
    """Of k commuting matrices, n×n."""
    cost = functools.partial(ica.cost, A=ica.matrices(n, k))

    def theirs():
        from pymanopt.manifolds import Stiefel as Frames

        return as_it_is(Frames(n, n), cost)

    def geoopt():
        import geoopt

        return geoopt.Stiefel()

    return FullBatch(
        "joint_diagonalisation",
        f"Joint diagonalisation, orthogonal {n}×{n}, {k} matrices",
        Stiefel(),
        (n, n),
        cost,
        0.0,
        theirs,
        geoopt,
        off_stiefel,
    )
