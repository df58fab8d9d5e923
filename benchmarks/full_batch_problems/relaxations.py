"""Semidefinite problems in factors: max-cut and the nearest correlation matrix."""

import numpy as np
import scipy.optimize
import torch

from full_batch_problems.interface import Array, FullBatch, as_columns, normal, off_sphere
from riemopt.manifolds import Sphere


def max_cut(n: int = 100, p: int = 15) -> FullBatch:
    """⟨W, YYᵀ⟩ over unit rows Y, of the weights W of a graph (Burer & Monteiro 2003).

    Its minimum is that of ⟨W, X⟩ over correlation matrices X, as p(p + 1)/2 > n.
    """
    W = torch.triu(normal(8, n, n).abs() * (normal(9, n, n) > 0), 1)
    W = W + W.mT

    def cost(Y: torch.Tensor) -> torch.Tensor:
        return (Y * (W @ Y)).sum()

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
    """½‖YYᵀ - A‖² over unit rows Y, square: the correlation matrix that is nearest to A."""
    A = normal(10, n, n).clamp(-1, 1)
    A = torch.triu(A, 1) + torch.triu(A, 1).mT + torch.eye(n, dtype=A.dtype)

    def cost(Y: torch.Tensor) -> torch.Tensor:
        return (Y @ Y.mT - A).square().sum() / 2

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


def semidefinite_minimum(W: Array, tolerance: float = 1e-13) -> float:
    """min ⟨W, X⟩ over X ⪰ 0 with unit diagonal: a primal–dual interior point method.

    (Helmberg, Rendl, Vanderbei & Wolkowicz 1996, §5.) The dual value is returned, which no X is
    below; it differs from the primal one by `tolerance` of it.
    """
    n = len(W)
    X, y = np.eye(n), 1.1 * np.abs(W).sum(0)
    Z = np.diag(y) + W
    while (gap := y.sum() + np.sum(W * X)) > tolerance * max(1.0, abs(y.sum())):
        mu = np.sum(Z * X) / (2 * n)
        if gap < 0.1:
            mu /= 5
        inverse = np.linalg.inv(Z)
        inverse = (inverse + inverse.T) / 2
        dy = np.linalg.solve(inverse * X, mu * np.diag(inverse) - 1)
        dX = mu * inverse - X - inverse @ (dy[:, None] * X)
        dX = (dX + dX.T) / 2
        primal, dual = _longest(X, dX), _longest(Z, np.diag(dy))
        X, y, Z = X + primal * dX, y + dual * dy, Z + dual * np.diag(dy)
        if max(primal, dual) < 1e-8:  # rounding
            break
    return float(-y.sum())


def _longest(X: Array, D: Array) -> float:
    """How far X + tD stays positive definite, and a little less; at most 1."""
    t = 1.0
    while True:
        try:
            np.linalg.cholesky(X + t * D)
        except np.linalg.LinAlgError:
            t *= 0.8
        else:
            return t if t == 1 else 0.95 * t


def nearest_correlation_minimum(A: Array) -> float:
    """min ½‖X - A‖² over X ⪰ 0 with unit diagonal, by its dual (Malick 2004; Qi & Sun 2006).

    max over y of -½‖(A + Diag y)₊‖² + Σy + ½‖A‖², which no X is below.
    """

    def dual(y: Array) -> tuple[float, Array]:
        values, vectors = np.linalg.eigh(A + np.diag(y))
        plus = (vectors * values.clip(min=0)) @ vectors.T
        return float(np.sum(plus**2) / 2 - y.sum()), np.diag(plus) - 1

    y = scipy.optimize.minimize(
        dual, np.zeros(len(A)), jac=True, method="BFGS", options={"gtol": 1e-10}
    ).x
    return float(np.sum(A**2) / 2) - dual(y)[0]


def _oblique(m: int, n: int):
    from pymanopt.manifolds import Oblique

    return Oblique(m, n)


def _geoopt_sphere():
    import geoopt

    return geoopt.Sphere()
