"""Polar factors on the host: as many products as the data need. See `polar`.

For eager CPU tensors alone, whose values can be read at no cost. Bounds of singular values are
Python numbers here; those of a batch are the bounds of its worst finite matrix.
"""

import math

import torch
from torch import Tensor

from riemopt.linalg.polynomials import REACH, evaluate, flattest_cubic, polynomials, step_cap
from riemopt.linalg.products import (
    add_identity,
    add_product,
    add_scaled,
    average,
    gram,
    host_gram_defect,
    is_square,
    product,
    right_multiply,
    sym,
)
from riemopt.linalg.steps import cap_norm, cubic_cut
from riemopt.linalg.tiny import has_entries_first, in_pieces

_MAX_SWEEPS = 6
_MAX_SQUARE_SWEEPS = 40  # each takes tiny singular values, of an edited weight, times 1.5 or more
_MAX_ROOT_STEPS = 100

_SHORT_CUBIC = 0.25  # ‖S‖ up to which S may be taken as YᴴY - I
_FEW = 128  # rows up to which the norm of S is tried as the only bound
_LARGE = 512  # rows from which `spectral_bound` costs less than it saves


# --- polar -------------------------------------------------------------------------------------


@in_pieces
def polar_step(x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
    """`polar.polar_step`; the length of U is measured only where X + U leaves a doubt."""
    limit = step_cap(u.dtype)
    factor, too_long = polar(add_scaled(x, u, t), limit)
    if too_long:
        del factor
        factor, _ = polar(x + cap_norm(t * u, limit))
    return factor


def polar(y: Tensor, limit: float = math.inf) -> tuple[Tensor, bool]:
    """The polar factor of Y = X + U and False; Y and True where U may be longer than `limit`.

    Each round forms S = YᴴY - I and finishes by the shortest polynomial that reaches ‖S‖, or brings
    Y nearer: if square by a cubic in Y, else by the inverse root of I + S, which is p×p.
    """
    (linear_reach, linear), *longer = polynomials(y.real.dtype)
    square = is_square(y)
    if square:
        # All products cost the same, and a sweep with its Gram matrix takes two, where a step of
        # the inverse root takes three and longer polynomials more memory.
        del longer[1:]
    swept: tuple[float, float] | None = None
    for _ in range(_MAX_SQUARE_SWEEPS if square else _MAX_SWEEPS):
        S = host_gram_defect(y)
        bound = _largest_norm(S, limit)
        if _is_too_long(bound, S, limit):
            return y, True
        if bound <= linear_reach:
            return add_product(y, y, S, linear[0]), False
        if bound <= longer[-1][0] * S.shape[-1] ** 0.25:  # else ‖S²‖^½ is above it
            S2 = product(S, S)
            # ‖S²‖^½ is nearer to the spectral norm than ‖S‖, and S² is needed anyway.
            bound = min(bound, _largest_norm(S2) ** 0.5)
            for reach, coefficients in longer:
                if bound <= reach:
                    P, scale = evaluate(coefficients, S, S2)
                    del S, S2
                    return add_product(y, y, P, scale), False
            del S2
        if square:
            a, b = _spread(bound)
            if swept is not None:  # the floor of .7 held before the first sweep
                a, b = max(swept[0], (1 - min(bound, 1)) ** 0.5), min(swept[1], b)
            y, swept = _sweep(y, S, a, b)
            continue
        root = _iterated_root(S, bound)
        del S
        y = right_multiply(y, root)
        del root
    return y, False


def _is_too_long(bound: float, S: Tensor, limit: float) -> bool:
    """Whether U may be longer than `limit`, where ‖S‖ ≤ bound.

    ‖U‖² = tr UᴴU ≤ √p·‖UᴴU‖, and UᴴU = S for a tangent U: no need to measure U itself.
    """
    return bound * S.shape[-1] ** 0.5 > limit**2


def _spread(bound: float) -> tuple[float, float]:
    """The least and the largest singular value of Y if ‖YᴴY - I‖ ≤ bound.

    Those of X + ξ are at least 1; the floor of .7 leaves room for an X that is off by .3.
    """
    return max(1 - bound, 0.5) ** 0.5, (1 + bound) ** 0.5


def _sweep(y: Tensor, S: Tensor, a: float, b: float) -> tuple[Tensor, tuple[float, float]]:
    """Y(c₁I - c₃YᴴY) with singular values nearer to 1 than those of Y, in [a, b]; and their range.

    S may be overwritten.
    """
    c1, c3, error = flattest_cubic(a, b)
    P = -c3 * S if S.requires_grad else S.mul_(-c3)
    return product(y, add_identity(P, c1 - c3)), (1 - error, 1 + error)


# --- inverse root ------------------------------------------------------------------------------


def inverse_root(S: Tensor) -> Tensor:
    """`polar.inverse_root`."""
    bound = _largest_norm(S)
    if bound <= REACH:
        coefficients = polynomials(S.real.dtype)[-1][1]
        P, scale = evaluate(coefficients, S.clone(), product(S, S))
        return add_identity(scale * P, 1)
    return _iterated_root(S.clone(), bound)


def _iterated_root(S: Tensor, bound: float) -> Tensor:
    """(I + S)^(-1/2) for Hermitian S with -1/2 ≤ S ≤ bound; S may be overwritten."""
    G = add_identity(S.clone() if S.requires_grad else S, 1)  # autograd may have saved S
    Z: Tensor | None = None
    del S
    a, b = _spread(bound)
    for _ in range(_MAX_ROOT_STEPS):
        c1, c3, error = flattest_cubic(a, b)
        P = add_identity(-c3 * G, c1)
        Z = P if Z is None else product(Z, P)
        if error <= torch.finfo(G.dtype).eps:
            break
        G = product(G, P)
        G = product(P, G)
        del P
        G = sym(G)
        a, b = 1 - error, 1 + error
    return G if Z is None else Z


# --- cubic -------------------------------------------------------------------------------------


@in_pieces
def cubic_step(x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
    """`polar.cubic_step`.

    S is taken as YᴴY - I where it is small; that holds the defect of X too, and leaves ¾ of its
    square. (Where X is off, the point reached depends on that, by the defect times the step.)
    """
    y = add_scaled(x, u, t)
    S = host_gram_defect(y)
    norm, square = _bounds(S)
    if norm > _SHORT_CUBIC:  # a defect as large must not be taken for a step
        del y, S
        factor, _ = polar(_long_cubic(x, u, t))
        return factor
    overwrite = y.is_contiguous() and not y.requires_grad
    y = add_product(y, average(x, y, 0.25), S, -0.5, overwrite=overwrite)
    if norm <= (64 * torch.finfo(S.dtype).eps) ** (1 / 3) and square <= _largest_square(S):
        return y  # the cubic's own error is ‖S‖³/128, and what it leaves of a defect ¾S²
    del S
    factor, _ = polar(y)
    return factor


def _long_cubic(x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
    """X + U - ½(X + ¼U)S with S = UᴴU, in the memory of t·U where that can be."""
    u = cap_norm(t * u, step_cap(u.dtype))
    S = gram(u, u)
    scale = cubic_cut(S)
    if S.requires_grad or u.shape != x.shape:
        u = scale * u
        return add_product(x + u, x + 0.25 * u, scale.square() * S, -0.5)
    u, S = u.mul_(scale), S.mul_(scale.square())
    y = x + u
    return add_product(y, u.mul_(0.25).add_(x), S, -0.5, overwrite=y.is_contiguous())


# --- bounds ------------------------------------------------------------------------------------


def _largest_norm(S: Tensor, limit: float = math.inf) -> float:
    """The largest Frobenius norm of a batch; as `_largest`."""
    S = S.detach() if S.requires_grad else S
    if S.numel() == S.shape[-1] ** 2:
        return _largest(torch.linalg.vector_norm(S), limit)
    if S.ndim == 3 and has_entries_first(S):  # torch is slow at a norm along two strides
        entries = S.permute(1, 2, 0)
        squares = entries.abs().square() if S.is_complex() else entries * entries
        return _largest(squares.sum((0, 1)).sqrt(), limit)
    return _largest(torch.linalg.vector_norm(S, dim=(-2, -1)), limit)


def _largest(norms: Tensor, limit: float = math.inf) -> float:
    """A matrix that is not finite does not count for the others of its batch.

    With a `limit` it does: its norm may be infinite since a long step overflowed when squared.
    """
    largest: float = (norms if norms.ndim == 0 else norms.max()).item()
    if math.isfinite(largest):
        return largest
    if limit < math.inf:
        return math.inf
    finite: float = norms.nan_to_num(0.0, 0.0, 0.0).max().item()
    return finite


def _largest_square(S: Tensor) -> float:
    """The largest entry of S² that is left to rounding."""
    return 8 * torch.finfo(S.dtype).eps * math.sqrt(S.shape[-1])


def _bounds(S: Tensor) -> tuple[float, float]:
    """Bounds of ‖S‖₂ and of the largest entry of S² for Hermitian S.

    By the longest row r: ‖S‖₂ ≤ √n·r, and no entry of S² is above r². Of small matrices the norm
    ‖S‖, which takes fewer operators, is tried for both. Infinite where S is not finite.
    """
    n = S.shape[-1]
    S = S.detach() if S.requires_grad else S
    if n < _FEW:
        norm = _largest_norm(S, 1.0)
        if n < 16 or norm**2 <= _largest_square(S):
            return norm, norm**2
    rows = torch.linalg.vector_norm(S, dim=-1)
    r = _largest(rows, 1.0)
    norm = math.sqrt(n) * r
    if n >= _LARGE and r <= _SHORT_CUBIC:  # ‖S‖₂ ≥ r, and beyond it products may overflow
        norm = min(norm, spectral_bound(S, rows))
    return norm, r**2


def spectral_bound(S: Tensor, rows: Tensor) -> float:
    """Four times what Hermitian S stretches its longest rows by: above ‖S‖₂, save by design.

    A direction that S stretches by λ has a share of at least λ/√n in some row. For the Gram matrix
    of a random step it is three times ‖S‖₂, where the Frobenius norm is √(n/8) times as large.
    """
    longest = rows.topk(8, dim=-1)
    index = longest.indices[..., None].expand(*S.shape[:-2], 8, S.shape[-1])
    stretched = torch.linalg.vector_norm(S.gather(-2, index) @ S, dim=-1)
    return 4 * _largest(stretched / longest.values)
