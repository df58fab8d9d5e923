"""Matrices of low rank that are stored whole: their spaces, their tangents, the nearest of them.

    U, R, V = spaces(X, 10)             # X = U·R·Vᴴ, if X has rank 10
    A, B = thin_parts(U, V, G)          # U·A + B·Vᴴ: the part of G that is tangent at X

The spaces are had by products with thin matrices and QR decompositions of these, which read no
value. `nearest_of_rank` takes an SVD: it is for starting points, never for a step.
"""

import torch
from torch import Tensor

from riemopt.linalg import decompositions
from riemopt.linalg.polar_derivative import with_own_derivative
from riemopt.linalg.products import add_product, exact_products, product

_WORD = 0xFFFFFFFF


@exact_products
def spaces(x: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """`(U, R, V)` with X ≈ U·R·Vᴴ: bases of the column and row space of `(*, n, m)` matrices.

    U is `(*, n, rank)` and V `(*, m, rank)`, with orthonormal columns; R is upper triangular. An X
    of that rank is U·R·Vᴴ to rounding. Of others it is near the best approximation: a distance of
    ε to the nearest matrix of that rank is exceeded by O(ε³). Of a lower rank bases are completed.

    By subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4): a basis of XΩ for a fixed
    Ω, then of the rows and again of the columns, so that the condition of Ω magnifies no rounding
    error. Three products with X.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import spaces
        >>> X = torch.outer(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([3.0, 4.0]))
        >>> U, R, V = spaces(X, 1)
        >>> torch.allclose(U @ R @ V.mT, X, atol=1e-5)
        True
    """
    Q = _orthonormal(product(x, scattered(x.shape[-1], rank, x).expand(*x.shape[:-2], -1, -1)))
    V = _orthonormal(product(Q.mH, x).mH)
    U, R = torch.linalg.qr(product(x, V))
    return U, R, V


def _orthonormal(y: Tensor) -> Tensor:
    return torch.linalg.qr(y)[0]


def scattered(n: int, k: int, like: Tensor) -> Tensor:
    """An n×k matrix of numbers between -1 and 1, as if at random but always the same.

    By 32-bit integer arithmetic, multiplications and shifts, so that all dtypes and devices have
    the same.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import scattered
        >>> A = scattered(4, 2, torch.ones(1))
        >>> A.shape, bool((A.abs() <= 1).all())
        (torch.Size([4, 2]), True)
    """
    h = torch.arange(1, n * k + 1, device=like.device)
    for factor in (0x9E3779B1, 0x45D9F3B):
        h = h.mul_(factor).bitwise_and_(_WORD)
        h = h.bitwise_xor_(h >> 16)
    return h.to(like.real.dtype).mul_(2.0**-31).sub_(1).to(like.dtype).view(n, k)


# --- tangents: U·A + B·Vᴴ with UᴴB = 0 ---------------------------------------------------------


def thin_parts(U: Tensor, V: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """A = UᴴZ, `(*, r, m)`, and B = (I - UUᴴ)ZV, `(*, n, r)`, of `(*, n, m)` matrices Z.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import spaces, thin_parts
        >>> X = torch.outer(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([3.0, 4.0]))
        >>> U, R, V = spaces(X, 1)
        >>> A, B = thin_parts(U, V, X)  # X is tangent at X, along U alone
        >>> A.shape, bool(B.norm() < 1e-5)
        (torch.Size([1, 2]), True)
    """
    A = product(U.mH, z)
    return A, add_product(product(z, V), U, product(A, V), -1)


def of_thin_parts(U: Tensor, V: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """U·A + B·Vᴴ.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import of_thin_parts, spaces, thin_parts
        >>> X = torch.outer(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([3.0, 4.0]))
        >>> U, R, V = spaces(X, 1)
        >>> torch.allclose(of_thin_parts(U, V, *thin_parts(U, V, X)), X, atol=1e-5)
        True
    """
    return product(torch.cat([U, B], -1), torch.cat([A, V.mH], -2))


# --- the nearest one ---------------------------------------------------------------------------


def nearest_of_rank(a: Tensor, rank: int, floor: float) -> Tensor:
    """The nearest matrix of that rank to any `(*, n, m)` A, by its SVD (Eckart & Young 1936).

    Singular values below `floor` times the largest are raised to that. The derivative is right
    where singular values are equal too, as long as the next one is smaller than those that are
    kept; else it is finite, and zero along the directions in question. A second derivative is right
    where no two singular values are equal.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import nearest_of_rank
        >>> nearest_of_rank(torch.diag(torch.tensor([3.0, 1.0])), 1, 1e-6).abs()
        tensor([[3., 0.],
                [0., 0.]])
    """

    def compute(a: Tensor) -> Tensor:
        U, s, Vh = decompositions.svd(a)
        s = torch.maximum(s, floor * s[..., :1])
        return product(U[..., :rank] * s[..., None, :rank].to(U.dtype), Vh[..., :rank, :])

    def derivative(A: Tensor, X: Tensor, dA: Tensor) -> Tensor:
        return _derivative(A, dA, rank)

    return with_own_derivative(compute, derivative)(a)


@exact_products
def _derivative(A: Tensor, dA: Tensor, rank: int) -> Tensor:
    """Of the nearest matrix, along dA; self-adjoint.

    That is the projection on the tangent space, and for each pair of a singular value σ that is
    kept and one q·σ that is not, with E the part of dA in the plane of their vectors,
    q/(1 - q²)·(q·E + Eᴴ).
    """
    U, s, Vh = decompositions.svd(A)
    U1, U2 = U[..., :rank], U[..., rank:]
    V1, V2 = Vh.mH[..., :rank], Vh.mH[..., rank:]
    kept, dropped = s[..., None, :rank], s[..., rank:, None]
    q = dropped / torch.where(kept > 0, kept, 1)
    apart = q < 1 - 10 * torch.finfo(s.dtype).eps
    q = torch.where(apart, q, 0)
    weight = q / (1 - q.square())
    below, beside = U2.mH @ dA @ V1, (U1.mH @ dA @ V2).mH
    tangent = of_thin_parts(U1, V1, *thin_parts(U1, V1, dA))
    across = U2 @ (weight * (q * below + beside)) @ V1.mH
    return tangent + across + U1 @ (weight * (q * beside + below)).mH @ V2.mH
