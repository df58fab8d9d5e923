"""Eigenvalue problems: a sphere, a Grassmann and two Stiefel manifolds."""

import torch

from full_batch_problems.interface import (
    FullBatch,
    as_it_is,
    normal,
    off_sphere,
    off_stiefel,
    symmetric,
)
from riemopt.manifolds import Grassmann, Sphere, Stiefel


def rayleigh(n: int = 1000) -> FullBatch:
    """-xᵀAx on the sphere; the minimum is -λ_max (Absil et al. 2008, §2.1)."""
    A = symmetric(1, n)

    def cost(x: torch.Tensor) -> torch.Tensor:
        return -(x @ (A @ x))

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
        -float(torch.linalg.eigvalsh(A)[-1]),
        theirs,
        geoopt,
        off_sphere,
    )


def dominant_subspace(n: int = 500, p: int = 10) -> FullBatch:
    """-tr XᵀAX on the Grassmann manifold; the minimum is minus the sum of the p largest λ."""
    A = symmetric(2, n)

    def cost(X: torch.Tensor) -> torch.Tensor:
        return -(X * (A @ X)).sum()

    def theirs():
        from pymanopt.manifolds import Grassmann as Subspaces

        return as_it_is(Subspaces(n, p), cost)

    return FullBatch(
        "dominant_subspace",
        f"Dominant subspace, Grassmann {n}×{p}",
        Grassmann(),
        (n, p),
        cost,
        -float(torch.linalg.eigvalsh(A)[-p:].sum()),
        theirs,
        _geoopt_stiefel,
        off_stiefel,
    )


def brockett(n: int = 100, p: int = 10) -> FullBatch:
    """tr XᵀAXN with N = diag(1, …, p) on Stiefel (Absil et al. 2008, §4.8).

    The minimum pairs the largest weight with the smallest eigenvalue.
    """
    A, weights = symmetric(3, n), torch.arange(1, p + 1, dtype=torch.float64)

    def cost(X: torch.Tensor) -> torch.Tensor:
        return (X * (A @ X) * weights).sum()

    def theirs():
        from pymanopt.manifolds import Stiefel as Frames

        return as_it_is(Frames(n, p), cost)

    least = torch.linalg.eigvalsh(A)[:p]
    return FullBatch(
        "brockett",
        f"Brockett cost, Stiefel {n}×{p}",
        Stiefel(),
        (n, p),
        cost,
        float((least * weights.flip(0)).sum()),
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
