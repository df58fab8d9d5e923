"""Products of rotations, and one rotation that makes many matrices diagonal."""

import numpy as np
import torch

from full_batch_problems.interface import Array, FullBatch, as_it_is, normal, off_stiefel
from riemopt.manifolds import SpecialOrthogonal, Stiefel


def procrustes(k: int = 50, n: int = 3) -> FullBatch:
    """-Σ tr RᵢᵀMᵢ over k rotations.

    The minimum of each is -(σ₁ + … + s·σ_n), where s is the sign of det M (Kabsch 1976).
    """
    M = normal(5, k, n, n)

    def cost(R: torch.Tensor) -> torch.Tensor:
        return -(R * M).sum()

    def theirs():
        from pymanopt.manifolds import SpecialOrthogonalGroup

        return as_it_is(SpecialOrthogonalGroup(n, k=k), cost)

    return FullBatch(
        "procrustes",
        f"Procrustes, {k} rotations of {n}×{n}",
        SpecialOrthogonal(),
        (k, n, n),
        cost,
        float(procrustes_minimum(M.numpy()).sum()),
        theirs,
        None,
        off_stiefel,
    )


def joint_diagonalisation(n: int = 10, k: int = 20) -> FullBatch:
    """Σᵢ ‖off-diagonal of XᵀAᵢX‖², of k matrices that commute; the minimum is 0."""
    Q = torch.linalg.qr(normal(6, n, n))[0]
    A = (Q * normal(7, k, 1, n)) @ Q.mT
    A = (A + A.mT) / 2
    off = 1 - torch.eye(n, dtype=A.dtype)

    def cost(X: torch.Tensor) -> torch.Tensor:
        return (off * (X.mT @ A @ X)).square().sum()

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


def procrustes_minimum(M: Array) -> Array:
    """-Σ of the singular values, the last with the sign of the determinant; of each matrix."""
    sigma = np.linalg.svd(M, compute_uv=False)
    sigma[..., -1] *= np.sign(np.linalg.det(M))
    return -sigma.sum(-1)
