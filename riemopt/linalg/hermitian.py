"""Functions of Hermitian matrices, f(A) = V f(λ) Vᴴ, with derivatives that are right at ties.

    hermitian_function(X, LOG)          # log X
    hermitian_derivative(X, U, LOG)     # D log_X[U]

The derivative is V (f[λᵢ, λⱼ] ∘ VᴴUV) Vᴴ with divided differences f[a, b] = (f(a) - f(b))/(a - b)
(Daleckii & Krein; Higham 2008, theorem 3.11), which are f′ where eigenvalues are equal; autograd
through an eigendecomposition divides by zero there. Functions can be differentiated twice and
derivatives once, backward, forward and under torch.func.

On an eager CPU tensor the eigendecomposition is LAPACK's. Elsewhere it is Jacobi's, a fixed number
of products that reads nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad

from riemopt.linalg import decompositions
from riemopt.linalg.backends import is_traced, is_wrapped, known_all, reads_are_free
from riemopt.linalg.products import identity_like, product, sym

Spectrum: TypeAlias = tuple[Tensor, Tensor]
"""Eigenvalues `(*, n)` in any order, and eigenvectors `(*, n, n)`."""


# --- scalar functions --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scalar:
    """A real function, by which matrices are mapped."""

    value: Callable[[Tensor], Tensor]
    quotient: Callable[[Tensor, Tensor], Tensor]
    """f[a, b], to rounding for all a and b, equal ones too."""
    second: Callable[[Tensor], Tensor]
    """f″."""
    scale: Callable[[Tensor], Tensor]
    """How far from a point f is nearly a polynomial there."""


def _sinhc(d: Tensor) -> Tensor:
    """sinh(d)/d."""
    small = d.abs() < 1e-2
    safe = torch.where(small, 1, d)
    series = 1 + d.square() / 6 * (1 + d.square() / 20)
    return torch.where(small, series, safe.sinh() / safe)


def _log_quotient(a: Tensor, b: Tensor) -> Tensor:
    """2·artanh(r)/(r(a + b)) with r = (a - b)/(a + b)."""
    r = (a - b) / (a + b)
    small = r.abs() < 1e-2
    safe = torch.where(small, 0.5, r)
    # log(a/b) where b/a may have been rounded to 0: r is 1 then, and its artanh infinite.
    ratio = torch.where(small, 1, (torch.log(a) - torch.log(b)) / 2)
    series = 1 + r.square() * (1 / 3 + r.square() * (1 / 5 + r.square() / 7))
    return 2 / (a + b) * torch.where(small, series, ratio / safe)


def _plus_one(a: Tensor) -> Tensor:
    """1 + a, at least eps: 1 + λ of a definite matrix may be rounded to less than 0."""
    return (1 + a).clamp(min=torch.finfo(a.dtype).eps)


EXP = Scalar(
    torch.exp, lambda a, b: ((a + b) / 2).exp() * _sinhc((a - b) / 2), torch.exp, torch.ones_like
)
LOG = Scalar(torch.log, _log_quotient, lambda a: -1 / a.square(), torch.abs)
LOG1P = Scalar(
    lambda a: torch.log1p(a.clamp(min=torch.finfo(a.dtype).eps - 1)),
    lambda a, b: _log_quotient(_plus_one(a), _plus_one(b)),
    lambda a: -1 / (1 + a).square(),
    lambda a: 1 + a,
)
SQRT = Scalar(
    torch.sqrt, lambda a, b: 1 / (a.sqrt() + b.sqrt()), lambda a: -1 / (4 * a**1.5), torch.abs
)


# --- functions of matrices ---------------------------------------------------------------------


def hermitian_function(a: Tensor, f: Scalar, spectrum: Spectrum | None = None) -> Tensor:
    """f(A) of the Hermitian part of `(*, n, n)` matrices.

    Args:
        a: the matrices.
        f: is finite at all eigenvalues.
        spectrum: `eigh(a)`, where it is known.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import LOG, hermitian_function
        >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> torch.allclose(torch.matrix_exp(hermitian_function(A, LOG)), A)
        True
    """
    A = sym(a)
    values, vectors = spectrum or eigh(A)
    if _is_recorded(A):
        result: Tensor = _Function.apply(A, values, vectors, f)  # type: ignore[no-untyped-call]
        return result
    return _compose(f.value(values), vectors)


def hermitian_derivative(
    a: Tensor, u: Tensor, f: Scalar, spectrum: Spectrum | None = None
) -> Tensor:
    """Df_A[U] of the Hermitian parts of A and U, `(*, n, n)`; `spectrum` is `eigh(a)`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import SQRT, hermitian_derivative, hermitian_function
        >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> I = torch.eye(2).double()
        >>> along = hermitian_derivative(A, I, SQRT)
        >>> torch.allclose(along @ hermitian_function(A, SQRT), I / 2)
        True
    """
    A, U = sym(a), sym(u)
    values, vectors = spectrum or eigh(A)
    if _is_recorded(A) or _is_recorded(U):
        result: Tensor = _Derivative.apply(A, U, values, vectors, f)  # type: ignore[no-untyped-call]
        return result
    return _first(U, values, vectors, f)


def hermitian_second(a: Tensor, u: Tensor, v: Tensor, f: Scalar) -> Tensor:
    """D²f_A[U, V], bilinear and symmetric in the Hermitian U and V; takes n³ numbers a matrix.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import LOG, hermitian_second
        >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> I = torch.eye(2).double()
        >>> torch.allclose(hermitian_second(A, I, I, LOG), -torch.linalg.inv(A @ A))
        True
    """
    result: Tensor = _Second.apply(sym(u), sym(v), *eigh(sym(a)), f)  # type: ignore[no-untyped-call]
    return result


def hermitian_difference(y: Tensor, x: Tensor, apart: Tensor, f: Scalar) -> Tensor:
    """f(Y) - f(X), where Y - X is known to be `apart`: to rounding of the difference itself.

    With X = V λ Vᴴ and Y = W μ Wᴴ it is V (f[λᵢ, μⱼ] ∘ Vᴴ(Y - X)W) Wᴴ.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import LOG, hermitian_difference
        >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> small = 1e-12 * torch.eye(2).double()
        >>> grown = hermitian_difference(A + small, A, small, LOG) / 1e-12
        >>> torch.allclose(grown, torch.linalg.inv(A))
        True
    """
    before, after = eigh(sym(x)), eigh(sym(y))
    (a, V), (b, W) = before, after
    inside = product(product(V.mH, apart.detach()), W)
    value = sym(product(product(V, f.quotient(a.unsqueeze(-1), b.unsqueeze(-2)) * inside), W.mH))
    if not (_is_recorded(x) or _is_recorded(y)):
        return value
    plain = hermitian_function(y, f, after) - hermitian_function(x, f, before)
    return plain + (value - plain).detach()  # the derivatives of the plain difference


def lyapunov(x: Tensor, u: Tensor) -> Tensor:
    """The solution L of XL + LX = U for positive definite X and Hermitian U, `(*, n, n)`.

    It is the derivative of the square root at X² along U.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import lyapunov
        >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> I = torch.eye(2).double()
        >>> L = lyapunov(A, I)
        >>> torch.allclose(A @ L + L @ A, I)
        True
    """
    values, vectors = eigh(sym(x))
    return hermitian_derivative(product(x, x), u, SQRT, (values.square(), vectors))


def _is_recorded(a: Tensor) -> bool:
    """Whether derivatives of what is computed with `a` may be asked for."""
    if torch.is_grad_enabled() or is_traced():
        return torch.is_grad_enabled()
    return is_wrapped(a) or forward_ad._current_level >= 0


def _compose(values: Tensor, vectors: Tensor) -> Tensor:
    return sym(product(vectors * values.unsqueeze(-2), vectors.mH))


def _first(u: Tensor, values: Tensor, vectors: Tensor, f: Scalar) -> Tensor:
    inside = product(product(vectors.mH, u), vectors)
    quotients = f.quotient(values.unsqueeze(-1), values.unsqueeze(-2))
    return sym(product(product(vectors, quotients * inside), vectors.mH))


def _second(u: Tensor, v: Tensor, values: Tensor, vectors: Tensor, f: Scalar) -> Tensor:
    """Σₖ f[λᵢ, λₖ, λⱼ](UᵢₖVₖⱼ + VᵢₖUₖⱼ) in the basis of the eigenvectors."""
    U, V = (product(product(vectors.mH, m), vectors) for m in (u, v))
    a, b, c = values[..., :, None, None], values[..., None, :, None], values[..., None, None, :]
    quotients = _second_quotient(a, b, c, f)
    inside = (quotients * U.unsqueeze(-1) * V.unsqueeze(-3)).sum(-2)
    return sym(product(product(vectors, inside + inside.mH), vectors.mH))


def _second_quotient(a: Tensor, b: Tensor, c: Tensor, f: Scalar) -> Tensor:
    """f[a, b, c] = (f[high, mid] - f[mid, low])/(high - low); f″/2 where all three are equal."""
    low, high = torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)
    mean = (a + b + c) / 3
    mid = 3 * mean - low - high
    apart = high - low
    near = torch.finfo(a.dtype).eps ** (1 / 3)
    equal = apart <= near * f.scale(mean)
    quotient = (f.quotient(high, mid) - f.quotient(mid, low)) / torch.where(equal, 1, apart)
    return torch.where(equal, f.second(mean) / 2, quotient)


class _Function(torch.autograd.Function):
    """f(A). Eigenvalues and vectors are given, and no derivative is taken through them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, values: Tensor, vectors: Tensor, f: Scalar) -> Tensor:
        return _compose(f.value(values), vectors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.f = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        A, values, vectors = ctx.saved_tensors
        return hermitian_derivative(A, grad, ctx.f, (values, vectors)), None, None, None

    @staticmethod
    def jvp(ctx: Any, u: Tensor, *_: Any) -> Any:
        A, values, vectors = ctx.saved_tensors
        return hermitian_derivative(A, u, ctx.f, (values, vectors))


class _Derivative(torch.autograd.Function):
    """Df_A[U]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, U: Tensor, values: Tensor, vectors: Tensor, f: Scalar) -> Tensor:
        return _first(U, values, vectors, f)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.f = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        A, U, values, vectors = ctx.saved_tensors
        along_A = _Second.apply(U, sym(grad), values, vectors, ctx.f)  # type: ignore[no-untyped-call]
        along_U = hermitian_derivative(A, grad, ctx.f, (values, vectors))
        return along_A, along_U, None, None, None

    @staticmethod
    def jvp(ctx: Any, dA: Tensor | None, dU: Tensor | None, *_: Any) -> Any:
        A, U, values, vectors = ctx.saved_tensors
        result = torch.zeros_like(U)
        if dU is not None:
            result = result + hermitian_derivative(A, dU, ctx.f, (values, vectors))
        if dA is not None:
            result = result + _second(U, sym(dA), values, vectors, ctx.f)
        return result


class _Second(torch.autograd.Function):
    """D²f_A[U, V], which has no derivative: an error, where autograd would leave out a part."""

    generate_vmap_rule = True

    @staticmethod
    def forward(U: Tensor, V: Tensor, values: Tensor, vectors: Tensor, f: Scalar) -> Tensor:
        return _second(U, V, values, vectors, f)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise NotImplementedError(
            "Functions of Hermitian matrices can be differentiated twice; this is a third "
            "derivative."
        )


# --- eigenvalues -------------------------------------------------------------------------------


@torch.no_grad()
def eigh(a: Tensor) -> Spectrum:
    """Eigenvalues and eigenvectors of Hermitian `(*, n, n)` matrices, without derivatives.

    Eigenvalues are in no order; those of a matrix that is not finite are NaN. Off an eager CPU it
    costs about 3n·(5 + log₂ n) products of n×n matrices, and reads nothing.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import eigh
        >>> A = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> spectrum = eigh(A)
        >>> sorted(round(v, 6) for v in spectrum[0].tolist())
        [1.0, 3.0]
    """
    A = a.detach()
    if not reads_are_free(A):
        return _jacobi(A)
    finite = A.isfinite().all(-1).all(-1)
    if known_all(finite):
        return decompositions.eigh(A)
    values, vectors = decompositions.eigh(torch.where(finite[..., None, None], A, 0))
    return torch.where(finite[..., None], values, torch.nan), vectors


def _jacobi(A: Tensor) -> Spectrum:
    """Jacobi's method, with rotations of neighbours that then change places.

    So all pairs meet within n rounds (the odd-even ordering of Luk & Park 1989), and the rotations
    of a round, which are disjoint, are one banded matrix.
    """
    n = A.shape[-1]
    V, D = identity_like(A), A
    for turn in range(n * (5 + math.ceil(math.log2(n))) if n > 1 else 0):
        J = _rotations(D, turn % 2)
        D = sym(product(product(J.mH, D), J))
        V = product(V, J)
    # Rounding errors of so many products: V is made orthonormal again.
    V = 1.5 * V - product(V, product(V.mH, V)) / 2
    return product(V.mH, product(A, V)).diagonal(dim1=-2, dim2=-1).real, V


def _rotations(A: Tensor, first: int) -> Tensor:
    """The unitary matrix that makes A[i, i+1] zero for i = first, first + 2, …, and swaps them."""
    n = A.shape[-1]
    pairs = (n - first) // 2
    diagonal = (
        A.diagonal(dim1=-2, dim2=-1).real[..., first : first + 2 * pairs].unflatten(-1, (pairs, 2))
    )
    entry = A.diagonal(1, dim1=-2, dim2=-1)[..., first::2]
    size, gap = entry.abs(), diagonal[..., 1] - diagonal[..., 0]
    zero = size <= torch.finfo(size.dtype).tiny
    far = torch.where(zero, 1, gap.abs() + torch.hypot(gap, 2 * size))
    tangent = torch.where(zero, 0, torch.where(gap < 0, -2, 2) * size / far)
    c = (1 + tangent.square()).rsqrt()
    s = tangent * c
    turn = torch.where(zero, 1, entry.conj() / torch.where(zero, 1, size))
    on = torch.stack([s.to(A.dtype), -s * turn], -1).flatten(-2)
    ones = on.new_ones(*on.shape[:-1], 1)
    on = torch.cat([ones] * first + [on] + [ones] * (n - first - 2 * pairs), -1)

    def beside(values: Tensor) -> Tensor:
        gaps = torch.stack([values, torch.zeros_like(values)], -1).flatten(-2)
        zeros = values.new_zeros(*values.shape[:-1], 1)
        return torch.cat([zeros] * first + [gaps, zeros], -1)[..., : n - 1]

    return (
        torch.diag_embed(on)
        + torch.diag_embed(beside(c.to(A.dtype)), 1)
        + torch.diag_embed(beside(c * turn), -1)
    )
