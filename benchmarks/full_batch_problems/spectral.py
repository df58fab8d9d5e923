"""Eigenvalue problems: a sphere, a Grassmann and two Stiefel manifolds."""

import functools

import torch
from riemopt_bench.problems import brockett as frames
from riemopt_bench.problems import dominant_subspace as subspaces
from riemopt_bench.problems import rayleigh as quotient
from riemopt_bench.problems._known_minimum import normal

from full_batch_problems.interface import FullBatch, as_it_is, off_sphere, off_stiefel
from riemopt.manifolds import Grassmann, Sphere, Stiefel


def rayleigh(n: int = 1000) -> FullBatch:
    """Of an n×n matrix."""
    cost = functools.partial(quotient.cost, A=quotient.matrix(n))

    def theirs():
        from pymanopt.manifolds import Sphere as Unit

        return as_it_is(Unit(n), cost)

    def geoopt():
        import geoopt

        return geoopt.Sphere()

    return FullBatch(
        "rayleigh",
        f"Rayleigh quotient, sphere {n}",
        Sphere(),
        (n,),
        cost,
        quotient.minimum(n),
        theirs,
        geoopt,
        off_sphere,
    )


def dominant_subspace(n: int = 500, p: int = 10) -> FullBatch:
    """Of p dimensions, of an n×n matrix."""
    cost = functools.partial(subspaces.cost, A=subspaces.matrix(n))

    def theirs():
        from pymanopt.manifolds import Grassmann as Subspaces

        return as_it_is(Subspaces(n, p), cost)

    return FullBatch(
        "dominant_subspace",
        f"Dominant subspace, Grassmann {n}×{p}",
        Grassmann(),
        (n, p),
        cost,
        subspaces.minimum(n, p),
        theirs,
        _geoopt_stiefel,
        off_stiefel,
    )


def brockett(n: int = 100, p: int = 10) -> FullBatch:
    """Of an n×n matrix and p columns."""
    cost = functools.partial(frames.cost, data=(frames.matrix(n), frames.weights(p)))

    def theirs():
        from pymanopt.manifolds import Stiefel as Frames

        return as_it_is(Frames(n, p), cost)

    return FullBatch(
        "brockett",
        f"Brockett cost, Stiefel {n}×{p}",
        Stiefel(),
        (n, p),
        cost,
        frames.minimum(n, p),
        theirs,
        _geoopt_stiefel,
        off_stiefel,
    )


def pca(n: int = 50, p: int = 5, samples: int = 200) -> FullBatch:
    """‖Z - ZXXᵀ‖²/samples on Stiefel; the minimum is the sum of the n - p least eigenvalues."""
    Z = normal(4, samples, n) * torch.linspace(0.5, 2, n, dtype=torch.float64)

    def cost(X: torch.Tensor) -> torch.Tensor:
        return (Z - (Z @ X) @ X.mT).square().sum() / samples

    def theirs():
        from pymanopt.manifolds import Stiefel as Frames

        return as_it_is(Frames(n, p), cost)

    return FullBatch(
        "pca",
        f"PCA, Stiefel {n}×{p}",
        Stiefel(),
        (n, p),
        cost,
        float(torch.linalg.eigvalsh(Z.mT @ Z / samples)[:-p].sum()),
        theirs,
        _geoopt_stiefel,
        off_stiefel,
    )


def _geoopt_stiefel():
    import geoopt

    return geoopt.Stiefel()
