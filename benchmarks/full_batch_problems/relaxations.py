"""Semidefinite problems in factors: max-cut and the nearest correlation matrix."""

import functools

from riemopt_bench.problems import max_cut as cuts
from riemopt_bench.problems import nearest_correlation as correlations
from riemopt_bench.problems._minima import nearest_correlation_minimum, semidefinite_minimum

from full_batch_problems.interface import FullBatch, as_columns, off_sphere
from riemopt.manifolds import Sphere


def max_cut(n: int = 100, p: int = 15) -> FullBatch:
    """Of a graph of n vertices; p(p + 1)/2 > n, else the minimum may be higher."""
    W = cuts.graph(n)
    cost = functools.partial(cuts.cost, W=W)

    return FullBatch(
        "max_cut",
        f"Max-cut relaxation, {n} unit rows of {p}",
        Sphere(),
        (n, p),
        cost,
        semidefinite_minimum(W.numpy()),
        lambda: as_columns(_oblique(p, n), cost),
        _geoopt_sphere,
        off_sphere,
    )


def nearest_correlation(n: int = 50) -> FullBatch:
    """To an n×n matrix."""
    A = correlations.matrix(n)
    cost = functools.partial(correlations.cost, A=A)

    return FullBatch(
        "nearest_correlation",
        f"Nearest correlation matrix, {n}×{n}",
        Sphere(),
        (n, n),
        cost,
        nearest_correlation_minimum(A.numpy()),
        lambda: as_columns(_oblique(n, n), cost),
        _geoopt_sphere,
        off_sphere,
    )


def _oblique(m: int, n: int):
    from pymanopt.manifolds import Oblique

    return Oblique(m, n)


def _geoopt_sphere():
    import geoopt

    return geoopt.Sphere()
