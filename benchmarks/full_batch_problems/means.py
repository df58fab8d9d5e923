"""The Karcher mean of positive definite matrices."""

import numpy as np
import torch

from full_batch_problems.interface import Array, FullBatch, as_it_is, normal
from riemopt.manifolds import SPD


def karcher_mean(n: int = 5, k: int = 10) -> FullBatch:
    """Σᵢ d(X, Aᵢ)²/2k in the affine-invariant distance ‖log A^(-1/2) X A^(-1/2)‖."""
    A = samples(11, k, n)
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


def samples(seed: int, *shape: int) -> torch.Tensor:
    """Random matrices `(*shape, n)` → (*shape, n, n), with eigenvalues from 0.1 to 10 or so."""
    *batch, n = shape
    Q = torch.linalg.qr(normal(seed, *batch, n, n))[0]
    A = (Q * normal(seed + 1, *batch, 1, n).exp()) @ Q.mT
    return (A + A.mT) / 2


def squared_distances(A: torch.Tensor):
    """X ↦ Σᵢ d(X, Aᵢ)²/2k, of A `(*batch, k, n, n)` and X `(*batch, n, n)`."""
    L = torch.linalg.cholesky(A)

    def cost(X: torch.Tensor) -> torch.Tensor:
        half = torch.linalg.solve_triangular(L, X.unsqueeze(-3), upper=False)
        whole = torch.linalg.solve_triangular(L, half.mT, upper=False)
        values = torch.linalg.eigvalsh((whole + whole.mT) / 2)
        return values.log().square().sum((-2, -1)) / (2 * A.shape[-3])

    return cost


def mean_by_fixed_point(A: Array, sweeps: int = 300) -> Array:
    """X ← X^½ exp(mean log X^(-½) Aᵢ X^(-½)) X^½, until it stays (Moakher 2005)."""
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
