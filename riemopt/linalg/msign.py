"""Matrix signs by products, msign(A) = UVᴴ of A = USVᴴ, and steepest steps of unit spectral norm.

    msign(M, steps=6)                    # the step of Muon
    msign_skew(S, steps=6)               # of skew-Hermitian S: skew-Hermitian
    steepest_along_columns(X, M, 6)      # the tangent Φ at X, ‖Φ‖₂ ≤ 1, of largest Re⟨M, Φ⟩

Each step is an odd polynomial X(aI + bXᴴX + c(XᴴX)²), which moves singular values towards 1 and
keeps singular vectors. Their number is fixed, so that no value is read: an iteration that is cut
off leaves small singular values below 1. Odd polynomials of a skew-Hermitian matrix are
skew-Hermitian, and so a step by `steepest_along_columns` is tangent however few there are.
"""

import torch
from torch import Tensor

from riemopt.linalg import backends
from riemopt.linalg.orthonormal import tangent_to_columns
from riemopt.linalg.products import (
    add_identity,
    add_product,
    gram,
    is_square,
    is_wide,
    product,
    right_multiply,
    skew,
)
from riemopt.linalg.qr import inverse_factor

Quintic = tuple[float, float, float]

POLAR_EXPRESS: tuple[Quintic, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
"""(a, b, c) of each step, the last one of all that follow.

The best composition of quintics for singular values in [1e-3, 1] (Amsel, Persson, Musco & Gower
2025, arXiv 2505.16932, Implementation 1). The last is Newton and Schulz's, exact to third order.
"""
JORDAN: Quintic = (3.4445, -4.7750, 2.0315)
"""The quintic of Muon, the same in each step: steep at 0, with limits in [.7, 1.2] and not 1.

Keller Jordan (2024), https://kellerjordan.github.io/posts/muon. What `torch.optim.Muon` takes.
"""
EPS = 1e-7
"""Frobenius norm below which a matrix counts as small, as in `torch.optim.Muon`."""
_SAFETY = 1.01
"""All steps but the last are made for singular values up to this: rounding may put some above 1."""
_FAR_FROM_SQUARE = 3
"""n/p from which the iteration on p×p matrices pays: its steps take four products of that size."""
_RESTART = 3
"""Steps after which that iteration goes back to the n×p matrix, whose Gram matrix is then known to
more digits: the powers of a Gram matrix lose small singular values (Dao et al. 2026)."""
_WORTH_ROUNDING = 192
"""Columns from which products of bfloat16 take less time than the copies they need."""


def coefficients(steps: int) -> list[Quintic]:
    """Those of `steps` steps of `POLAR_EXPRESS`."""
    *first, last = POLAR_EXPRESS
    safe = [(a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in first[:steps]]
    return safe + [last] * (steps - len(safe))


def msign(a: Tensor, steps: int, eps: float | Tensor = EPS) -> Tensor:
    """UVᴴ of A = USVᴴ, `(*, n, p)`, up to what singular values lack of 1 after `steps` steps.

    Shorter where ‖A‖ is below `eps`, and 0 of 0. Of matrices far from square by products of p×p
    matrices (the smaller side), which take less time. Products may be of bfloat16: see `_rounded`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import msign
        >>> S = torch.linalg.svdvals(msign(torch.randn(6, 3), steps=8))
        >>> torch.allclose(S, torch.ones(3), atol=0.05)
        True
    """
    if a.numel() == 0:
        return a.clone()
    X = _rounded(_normalised(a, eps))
    n, p = max(a.shape[-2:]), min(a.shape[-2:])
    taken = coefficients(steps)
    if n >= _FAR_FROM_SQUARE * p:
        for first in range(0, steps, _RESTART):
            X = _by_gram_matrices(X, taken[first : first + _RESTART])
    else:
        for a_, b, c in taken:
            X = _quintic(X, gram(X, X), (a_, b, c))
    return X.to(a.dtype)


def msign_skew(k: Tensor, steps: int, eps: float | Tensor = EPS) -> Tensor:
    """`msign` of skew-Hermitian K, `(*, m, m)`: skew-Hermitian to the last bit.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import msign_skew
        >>> msign_skew(torch.tensor([[0.0, -5.0], [5.0, 0.0]]), steps=8).round(decimals=1)
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    if k.numel() == 0:
        return k.clone()
    K = _rounded(_normalised(k, eps))
    for a, b, c in coefficients(steps):
        K = _quintic(K, product(K, K), (a, -b, c))  # KᴴK = -K²
    return skew(K).to(k.dtype)


def _quintic(x: Tensor, G: Tensor, coefficients: Quintic) -> Tensor:
    a, b, c = coefficients
    return add_product(x, x, add_product(G, G, G, c, weight=b), weight=a)


def _by_gram_matrices(x: Tensor, taken: list[Quintic]) -> Tensor:
    """Several steps of tall X at once: X·Q, where Q follows from XᴴX."""
    G, Q = gram(x, x), None
    for i, (a, b, c) in enumerate(taken):
        P = add_identity(add_product(G, G, G, c, weight=b), a)
        Q = P if Q is None else product(Q, P)
        if i + 1 < len(taken):
            G = product(P, product(G, P))
    assert Q is not None
    return right_multiply(x, Q)


def _normalised(a: Tensor, eps: float | Tensor) -> Tensor:
    """A/max(‖A‖, eps), of spectral norm up to 1."""
    norm = torch.linalg.vector_norm(a, dim=(-2, -1), keepdim=True)
    return a / norm.clamp(min=eps)


def _rounded(a: Tensor) -> Tensor:
    """A in bfloat16, where products of that are fast and A is large enough; else A.

    The steps correct each other's rounding, so that singular values end within .01 of 1. What is
    exact, that K is skew and Φ tangent, is made so afterwards, in the dtype that was given.
    """
    fast = backends.multiplies_bfloat16(a) and min(a.shape[-2:]) >= _WORTH_ROUNDING
    return a.bfloat16() if fast else a


# --- tangent steps of unit spectral norm --------------------------------------------------------


def steepest_along_columns(x: Tensor, m: Tensor, steps: int, eps: float = EPS) -> Tensor:
    """The Φ with XᴴΦ skew-Hermitian and ‖Φ‖₂ ≤ 1 of largest Re⟨M, Φ⟩: msign(skew(MXᴴ))·X.

    x, m: `(*, n, p)`, X with orthonormal columns, or rows where n < p ("Skewon", arXiv 2608.06218,
    proposition 1 and theorem 2). skew(MXᴴ) is n×n of rank up to 2p. A square X is taken to the
    other side, X·msign(skew(XᴴM)); for p < n/2 it is reduced to 2p×2p, in the basis of X and of
    what M has across it. Shorter where the tangent part of M is below `eps`, or is rounding.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import steepest_along_columns
        >>> X, M = torch.eye(3, 2), torch.randn(3, 2)
        >>> Phi = steepest_along_columns(X, M, steps=8)
        >>> torch.allclose(X.mT @ Phi, -Phi.mT @ X, atol=1e-5)
        True
        >>> bool(torch.linalg.norm(Phi, 2) < 1.05)
        True
    """
    if is_wide(x):
        return steepest_along_columns(x.mH, m.mH, steps, eps).mH.resolve_conj()
    n, p = x.shape[-2:]
    if 2 * p < n:
        return _steepest_in_basis(x, m, steps, eps)
    if is_square(x):
        return product(x, msign_skew(skew(gram(x, m)), steps, _resolved(m, eps)))
    return product(msign_skew(skew(product(m, x.mH)), steps, _resolved(m, eps)), x)


def _resolved(m: Tensor, eps: float) -> Tensor:
    """The norm that counts as 1 at least, for the tangent part of M: what is rounding stays small.

    Steps enlarge singular values of 1e-3 and more to 1, and so a part of M from 8·eps on.
    """
    norm = torch.linalg.vector_norm(m, dim=(-2, -1), keepdim=True)
    return (8e3 * torch.finfo(m.dtype).eps * norm).clamp(min=eps)


def _steepest_in_basis(x: Tensor, m: Tensor, steps: int, eps: float) -> Tensor:
    """Of tall X: Φ = X·msign(K)₁₁ + Q·msign(K)₂₁, K = [[S, -½Tᴴ], [½T, 0]].

    S = skew(XᴴM), and QT = M - XXᴴM with orthonormal columns Q, T by a Cholesky factor. That is
    moved off singular matrices, so that parts of M below √(machine precision) are taken shorter.
    """
    p = x.shape[-1]
    A = gram(x, m)
    R = add_product(m, x, A, -1)
    norm = torch.linalg.vector_norm(R, dim=(-2, -1), keepdim=True)
    size = torch.where(norm == 0, 1, norm)
    R = R / size
    C = add_identity(gram(R, R), 4 * torch.finfo(x.dtype).eps * p**0.5)
    inverse = inverse_factor(C)  # T⁻¹ of C = TᴴT
    T = size * product(inverse.mH, C) / 2
    top = torch.cat([skew(A), -T.mH], -1)
    bottom = torch.cat([T, torch.zeros_like(T)], -1)
    K = msign_skew(torch.cat([top, bottom], -2), steps, _resolved(m, eps))
    along, across = K[..., :p, :p], product(inverse, K[..., p:, :p])
    # Rounding leaves R not quite normal to X, and T⁻¹ makes much of that where M is singular.
    return tangent_to_columns(x, add_product(product(x, along), R, across))
