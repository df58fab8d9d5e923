"""Electrons on a sphere, as far apart as they can be."""

import functools

from riemopt_bench.problems import thomson as electrons

from full_batch_problems.interface import FullBatch, as_columns, off_sphere
from riemopt.manifolds import Sphere


def thomson(n: int) -> FullBatch:
    """Of n electrons; there are local minima for 32 and 50."""
    cost = functools.partial(electrons.cost, pairs=electrons.pairs(n))

    def theirs():
        from pymanopt.manifolds import Oblique

        return as_columns(Oblique(3, n), cost)

    def geoopt():
        import geoopt

        return geoopt.Sphere()

    return FullBatch(
        f"thomson_{n}",
        f"Thomson problem, {n} points",
        Sphere(),
        (n, 3),
        cost,
        electrons.MINIMA[n],
        theirs,
        geoopt,
        off_sphere,
    )
