"""Positive matrices with given sums of rows and columns: scaling to them, and their tangents.

    scale_to_sums(K, r, c)              # exp(αᵢ + Kᵢⱼ + βⱼ) with rows of sum r, columns c
    sum_multipliers(X, p, q)            # α, β: X∘(α1ᵀ + 1βᵀ) has rows of sum p, columns q

Matrices are `(*, n, m)`, sums of rows `(*, n, 1)` and of columns `(*, 1, m)`. Nothing waits.
"""

import torch
from torch import Tensor

from riemopt.linalg.backends import known_all, sums_exactly
from riemopt.linalg.products import add_identity

_SWEEPS, _ROUNDS = 6, 14
"""Of Sinkhorn's iteration: before the first step of Newton's method, and in all. They decide how
near the result is to the limit, and not whether its sums are right."""
_ARRIVED = 32
"""The iteration stops where logarithms move by so many eps."""


def scale_to_sums(k: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """exp(αᵢ + Kᵢⱼ + βⱼ) with the given sums of rows and columns, whose totals are equal.

    By Sinkhorn's iteration with logarithms, which neither overflows nor divides by 0; where it is
    slow, with steps of Newton's method in between (Brauer, Clason, Lorenz & Wirth 2017), of which
    too long ones are shortened. What is missing from the sums in the end is added as a matrix of
    rank one (Altschuler, Weed & Rigollet 2017, algorithm 2): they are right to rounding for any K.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import scale_to_sums
        >>> K, one = torch.randn(3, 3), torch.ones(3, 1)
        >>> X = scale_to_sums(K, one, one.mT)
        >>> torch.allclose(X.sum(0), torch.ones(3)), torch.allclose(X.sum(1), torch.ones(3))
        (True, True)
    """
    to_rows, to_columns = rows.log(), columns.log()
    alpha, beta = torch.zeros_like(k[..., :1]), torch.zeros_like(k[..., :1, :])
    arrived = torch.zeros_like(k[..., :1, :1], dtype=torch.bool)
    close = _ARRIVED * torch.finfo(k.dtype).eps
    for i in range(_ROUNDS):
        if i >= _SWEEPS:
            step = _newton_step((k + alpha + beta).exp(), rows, columns)
            alpha, beta = (
                torch.where(arrived, a, a + d) for a, d in zip((alpha, beta), step, strict=True)
            )
        next_beta = to_columns - torch.logsumexp(k + alpha, -2, keepdim=True)
        moved = (next_beta - beta).detach().abs().amax((-2, -1), keepdim=True)
        beta = torch.where(arrived, beta, next_beta)
        alpha = torch.where(arrived, alpha, to_rows - torch.logsumexp(k + beta, -1, keepdim=True))
        arrived = arrived | (moved <= close)  # matrices of a batch stop each by itself
        if known_all(arrived):
            break
    x = (k + alpha + beta).exp()
    x = x * (rows / x.sum(-1, keepdim=True)).clamp(max=1)
    x = x * (columns / x.sum(-2, keepdim=True)).clamp(max=1)
    missing = (rows - x.sum(-1, keepdim=True)).clamp(min=0)
    short = (columns - x.sum(-2, keepdim=True)).clamp(min=0)
    total = missing.sum(-2, keepdim=True)
    return x + missing * (short / torch.where(total > 0, total, 1))


def _newton_step(x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The changes of α and β, times log(1 + d)/d of their size d: the longest safe step.

    (Sun & Tran-Dinh 2019: what is minimised is self-concordant in their sense, with ν = 2.)
    """
    missing = rows - x.sum(-1, keepdim=True), columns - x.sum(-2, keepdim=True)
    alpha, beta = sum_multipliers(x, *missing)
    sizes = [a.detach().abs().amax((-2, -1), keepdim=True) for a in (alpha, beta)]
    size = sizes[0] + sizes[1]
    part = torch.where(size > 0, torch.log1p(size) / torch.where(size > 0, size, 1), 1)
    return part * alpha, part * beta


def sum_multipliers(x: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """α `(*, n, 1)` and β `(*, 1, m)`: X∘(α1ᵀ + 1βᵀ) has rows of sum p and columns of sum q.

    X is positive, and the totals of p and q are equal, up to which α and β are determined. They
    solve [D(r) X; Xᵀ D(c)][α; β] = [p; q] for the sums r and c of X. With α eliminated, or β if it
    is the shorter one, what is left is the Laplacian of a graph: a Cholesky factor of that size, in
    double precision where the device has it, and one refinement.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import sum_multipliers
        >>> X = torch.full((2, 2), 0.5)
        >>> p, q = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.5, 0.5]])
        >>> a, b = sum_multipliers(X, p, q)
        >>> torch.allclose((X * (a + b)).sum(1, keepdim=True), p, atol=1e-6)
        True
    """
    if x.shape[-2] < x.shape[-1]:
        beta, alpha = sum_multipliers(x.mT, q.mT, p.mT)
        return alpha.mT, beta.mT
    X, P, Q = (a.to(torch.promote_types(sums_exactly(x), x.dtype)) for a in (x, p, q))
    shares = X / X.sum(-1, keepdim=True)
    weights = shares.mT @ X
    degrees = weights.sum(-1)  # not the sums of X, so that the rows of the Laplacian add up to 0
    laplacian = torch.diag_embed(degrees) - weights
    m = degrees.shape[-1]
    largest = degrees.detach().amax(-1)[..., None, None]
    least = m * torch.finfo(X.dtype).eps * largest
    L = torch.linalg.cholesky_ex(add_identity(laplacian + largest / m, least))[0]
    right = Q.mT - shares.mT @ P
    beta = torch.cholesky_solve(right, L)
    beta = beta + torch.cholesky_solve(right - laplacian @ beta, L)
    alpha = P / X.sum(-1, keepdim=True) - shares @ beta
    return alpha.to(x.dtype), beta.mT.to(x.dtype)
