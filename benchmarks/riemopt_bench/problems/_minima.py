"""Minima of convex problems without a closed form, by methods that are no descent on a manifold.

They take a while. A problem of one size holds its minimum as a constant, found here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
    import scipy.optimize

    def dual(y: Array) -> tuple[float, Array]:
        values, vectors = np.linalg.eigh(A + np.diag(y))
        plus = (vectors * values.clip(min=0)) @ vectors.T
        return float(np.sum(plus**2) / 2 - y.sum()), np.diag(plus) - 1

    y = scipy.optimize.minimize(
        dual, np.zeros(len(A)), jac=True, method="BFGS", options={"gtol": 1e-10}
    ).x
    return float(np.sum(A**2) / 2) - dual(y)[0]


def mean_by_fixed_point(A: Array, sweeps: int = 300) -> Array:
    """The Karcher mean of A `(*batch, k, n, n)` in the affine-invariant metric (Moakher 2005).

    X ← X^½ exp(mean log X^(-½) Aᵢ X^(-½)) X^½, until it stays.
    """
    X = A.mean(-3)
    for _ in range(sweeps):
        root, inverse = _of(X, np.sqrt), _of(X, lambda s: 1 / np.sqrt(s))
        inner = inverse[..., None, :, :] @ A @ inverse[..., None, :, :]
        log = _of((inner + inner.swapaxes(-1, -2)) / 2, np.log).mean(-3)
        X = root @ _of(log, np.exp) @ root
        X = (X + X.swapaxes(-1, -2)) / 2
        if np.abs(log).max() < 1e-15:
            break
    return X


def _of(A: Array, function) -> Array:
    """A function of symmetric matrices."""
    values, vectors = np.linalg.eigh(A)
    return (vectors * function(values)[..., None, :]) @ vectors.swapaxes(-1, -2)
