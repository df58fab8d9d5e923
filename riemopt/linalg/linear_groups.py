"""Invertible matrices, and those of determinant 1, in a metric that left translations keep.

Tangent vectors are U = XA; ⟨U, V⟩ = tr AᵀB is the same at X and at YX. Geodesics are
X·exp(tAᵀ)·exp(t(A - Aᵀ)), of velocity XA and acceleration X(A² + AᵀA - AAᵀ) (Andruchow, Larotonda,
Recht & Varela 2014; Martin & Neff 2014, arXiv 1409.7849). Nothing here reads a value, but for
`proper_svd` and `nearest_of_determinant_one`.
"""

import torch
from torch import Tensor

from riemopt.linalg import decompositions
from riemopt.linalg.polar_derivative import solve_lyapunov, with_own_derivative
from riemopt.linalg.products import add_identity, exact_products, identity_like, product, sym

LONGEST = 0.5
"""Of a step, as a bound of ‖A‖₂: the step is X(I + E) with ‖E‖₂ ≤ 3/4."""
_BISECTIONS = 80
_NEWTON = 9
_MATRIX = (-2, -1)


def left_divide_by(x: Tensor, u: Tensor) -> Tensor:
    """A = X⁻¹U.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import left_divide_by
        >>> left_divide_by(2 * torch.eye(2), torch.ones(2, 2))
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    return torch.linalg.solve_ex(x, u)[0]


def acceleration(A: Tensor) -> Tensor:
    """A² + AᵀA - AAᵀ: of the geodesic from I along A."""
    return product(A + A.mT, A) - product(A, A.mT)


def geodesic_step(x: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """X(I + A + ½(A² + AᵀA - AAᵀ)), of a determinant with the sign of X's; and the part taken.

    That is the geodesic to second order. The step is cut where ‖AᵀA‖^½ is above `LONGEST`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import geodesic_step
        >>> Y, part = geodesic_step(torch.eye(2), torch.tensor([[0.1, 0.0], [0.0, -0.1]]))
        >>> Y, part
        (tensor([[1.1050, 0.0000],
                [0.0000, 0.9050]]), tensor(1.))
    """
    AA = product(A.mT, A)
    fourth = AA.square().sum(_MATRIX, keepdim=True)
    limit = LONGEST**4
    s = (limit / fourth.clamp(min=limit)) ** 0.25
    A = s * A
    return x + product(x, A + acceleration(A) / 2), s[..., 0, 0]


def bend_of(A: Tensor, M: Tensor) -> Tensor:
    """Gradient with respect to A of ⟨M, A² + AᵀA - AAᵀ⟩.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import bend_of
        >>> bend_of(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[2., 0.],
                [0., 4.]])
    """
    N = M + M.mT
    return product(M, A.mT) + product(A.mT, M) + product(A, N) - product(N, A)


def without_trace(A: Tensor) -> Tensor:
    """A - (tr A/n)·I.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import without_trace
        >>> without_trace(torch.diag(torch.tensor([3.0, 1.0])))
        tensor([[ 1.,  0.],
                [ 0., -1.]])
    """
    return add_identity(A.clone(), -_trace(A) / A.shape[-1])


def with_determinant_one(x: Tensor) -> Tensor:
    """X/|det X|^(1/n).

    Examples:
        >>> import torch
        >>> from riemopt.linalg import with_determinant_one
        >>> with_determinant_one(torch.diag(torch.tensor([4.0, 1.0])))
        tensor([[2.0000, 0.0000],
                [0.0000, 0.5000]])
    """
    log = torch.linalg.slogdet(x).logabsdet / x.shape[-1]
    return x * (-log).exp()[..., None, None]


def is_well_conditioned(x: Tensor) -> Tensor:
    """Whether det X > 0, and rounding cannot change that: booleans of the batch's shape.

    By ‖X‖·‖X⁻¹‖ ≤ √n/(4·eps).

    Examples:
        >>> import torch
        >>> from riemopt.linalg import is_well_conditioned
        >>> is_well_conditioned(torch.diag_embed(torch.tensor([[1.0, 2.0], [1.0, -2.0]])))
        tensor([ True, False])
    """
    largest = x.abs().amax(_MATRIX, keepdim=True)
    unit = x / torch.where(largest > 0, largest, 1)  # whose squares can be represented
    inverse = torch.linalg.inv_ex(unit)[0]
    size, inverse_size = (torch.linalg.vector_norm(m, dim=_MATRIX) for m in (unit, inverse))
    known = size * inverse_size <= x.shape[-1] ** 0.5 / (4 * torch.finfo(x.dtype).eps)
    return known & (torch.linalg.slogdet(unit).sign > 0)


def raise_singular_values(x: Tensor, least: float) -> Tensor:
    """X + δQ with δ = `least`·‖X‖ and the polar factor Q of X: each singular value goes up by δ.

    Q by Newton's iteration, scaled (Higham 1986): from any condition number by nine inverses. It
    keeps the sign of the determinant.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import raise_singular_values
        >>> bool(torch.linalg.svdvals(raise_singular_values(torch.eye(2), 0.1)).min() > 1)
        True
    """
    Q = x
    for _ in range(_NEWTON):
        inverse = torch.linalg.inv_ex(Q)[0].mT
        scale = (_norm(inverse) / _norm(Q)).sqrt()
        Q = (scale * Q + inverse / scale) / 2
    return x + least * _norm(x) * Q


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=_MATRIX, keepdim=True)


def proper_svd(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`(U, s, Vᵀ)` with det(UVᵀ) = 1: the last of the s is negative where det A is.

    Waits for an accelerator, and has no derivative.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import proper_svd
        >>> U, s, Vt = proper_svd(torch.diag(torch.tensor([2.0, -1.0])))
        >>> s, torch.linalg.det(U @ Vt)
        (tensor([ 2., -1.]), tensor(1.))
    """
    U, s, Vh = decompositions.svd(a.detach())
    flip = torch.ones_like(s)
    flip[..., -1] = torch.linalg.slogdet(product(U, Vh)).sign
    return U * flip.unsqueeze(-2), s * flip, Vh


# --- the nearest matrix of determinant 1 -------------------------------------------------------


def nearest_of_determinant_one(a: Tensor) -> Tensor:
    """The nearest X with det X = 1 to A; or A/|det A|^(1/n), where |det A| is larger.

    X = A + μX⁻ᵀ has the singular vectors of A, and singular values (s + (s² + 4μ)^½)/2, the
    negative last one of a reflection among the s. All are larger than s where |det A| < 1. Where
    det A > 1 they are smaller; that goes on while (s² + 4μ)^½ ≥ s/2 for the smallest. Of what is
    larger yet, as of 10·I, the nearest matrix has one tiny singular value, and A is scaled instead;
    a reflection after the sign of the last s is changed.

    Differentiable, any number of times; but there is no derivative of the scaled reflection. Waits
    for an accelerator.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import nearest_of_determinant_one
        >>> nearest_of_determinant_one(2 * torch.eye(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    U, s, Vh = proper_svd(a)
    far = (_log_determinant(s.abs(), _least(s)) > 0)[..., None, None]
    reflects = (s[..., -1:] < 0).unsqueeze(-1)
    proper = torch.where(reflects, product(U * s.abs().unsqueeze(-2), Vh), a)
    eye = identity_like(a)
    scaled = with_determinant_one(torch.where(far, proper, eye))
    scaled = with_determinant_one(scaled)  # once more, as a large logarithm is less exact
    return torch.where(far, scaled, _nearest(torch.where(far, eye, a)))


def _least(s: Tensor) -> Tensor:
    """The smallest ρ, `(*, 1)`, where ρ is 2√μ, or -2√-μ; 0 if the last s is negative."""
    return -(0.75**0.5) * s[..., -1:].clamp(min=0)


def _moved(s: Tensor, rho: Tensor) -> Tensor:
    """(s + (s² ± ρ²)^½)/2, without cancellation for s < 0; no square overflows."""
    r = rho.abs()
    shorter = (s - r).clamp(min=0).sqrt() * (s + r).clamp(min=0).sqrt()
    root = torch.where(rho < 0, shorter, torch.hypot(s, r))
    return torch.where(s > 0, (s + root) / 2, r / (root - s).clamp(min=_tiny(s)) * r / 2)


def _log_determinant(s: Tensor, rho: Tensor) -> Tensor:
    """Σ log of the singular values for ρ; grows with it."""
    return _moved(s, rho).clamp(min=_tiny(s)).log().sum(-1)


def _tiny(s: Tensor) -> float:
    return torch.finfo(s.dtype).tiny


def _compute(a: Tensor) -> Tensor:
    U, s, Vh = proper_svd(a)
    low, high = _least(s), 2 * (1 + s[..., -1:].abs()).sqrt()
    for _ in range(_BISECTIONS):
        rho = (low + high) / 2
        short = (_log_determinant(s, rho) < 0).unsqueeze(-1)
        low, high = torch.where(short, rho, low), torch.where(short, high, rho)
    return with_determinant_one(product(U * _moved(s, high).unsqueeze(-2), Vh))


@exact_products
def _derivative(A: Tensor, X: Tensor, dA: Tensor) -> Tensor:
    """XW with XᵀX·W + μWᵀ = XᵀdA + dμ·I and tr W = 0, where Xᵀ(X - A) = μI."""
    S = product(X.mT, X)
    n = S.shape[-1]
    mu = (_trace(S) - _trace(product(X.mT, A))) / n
    one = _solve(S, mu, identity_like(S))
    W = _solve(S, mu, product(X.mT, dA))
    return product(X, W - one * (_trace(W) / _trace(one)))


def _solve(S: Tensor, mu: Tensor, C: Tensor) -> Tensor:
    """W with SW + μWᵀ = C for a positive definite S.

    Without its adjoint, SWS - μ²W = CS - μCᵀ. That is a Lyapunov equation for
    T = (S + μ)⁻¹(S - μ): TW + WT = 2(S + μ)⁻¹(CS - μCᵀ)(S + μ)⁻¹.
    """
    eye = identity_like(S)
    inverse = torch.linalg.inv_ex(S + mu * eye)[0]
    right = product(inverse, product(product(C, S) - mu * C.mT, inverse))
    return solve_lyapunov(sym(product(inverse, S - mu * eye)), 2 * right)


_nearest = with_own_derivative(_compute, _derivative)


def _trace(A: Tensor) -> Tensor:
    """`(*, 1, 1)`."""
    return A.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
