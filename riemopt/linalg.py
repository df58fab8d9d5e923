"""Kernels on batches of matrices: symmetric parts, Gram matrices, polar factors, Cayley transforms.

    >>> Y = X + xi                      # X has orthonormal columns, xi is tangent at X
    >>> polar(Y)                        # the nearest matrix with orthonormal columns

Everything here is a function of tensors alone and knows no manifold. Matrices are the last two
dimensions, the leading ones are a batch, and complex matrices use the conjugate transpose. A
*wide* matrix stands for its transpose: `gram` and `right_multiply` hide the orientation, so that
no formula is written twice and no n×n matrix is ever formed for an n×p point with p < n.

No function here synchronises with the host, except that a value is read where that costs nothing:
on an eager CPU tensor (`host_readable`). `project_polar` alone uses an SVD; it is for starting
points, never for a step.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)
"""Dtypes that no factorisation takes, and that are computed with in float32."""

_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def upcast(function: _Function) -> _Function:
    """Decorator: compute in float32 what is given in half precision, and round the result."""

    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        halves = [a.dtype for a in args if isinstance(a, Tensor) and a.dtype in HALF]
        if not halves:
            return function(*args, **kwargs)
        full = (a.float() if isinstance(a, Tensor) and a.dtype in HALF else a for a in args)
        return function(*full, **kwargs).to(halves[0])

    wrapper.__name__, wrapper.__doc__ = function.__name__, function.__doc__
    wrapper.__wrapped__ = function  # type: ignore[attr-defined]
    return cast(_Function, wrapper)


def host_readable(a: Tensor) -> bool:
    """Whether a value of `a` can be read by Python for free: a real CPU tensor, in eager mode."""
    return (
        a.device.type == "cpu"
        and type(a) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(a)
    )


def sym(a: Tensor) -> Tensor:
    """Hermitian part (A + Aᴴ)/2 of `(*, n, n)` matrices."""
    return (a + a.mH) / 2


def skew(a: Tensor) -> Tensor:
    """Skew-Hermitian part (A - Aᴴ)/2 of `(*, n, n)` matrices."""
    return (a - a.mH) / 2


def is_wide(x: Tensor) -> bool:
    """Whether `(*, n, p)` matrices have fewer rows than columns."""
    return x.shape[-2] < x.shape[-1]


def gram(x: Tensor, y: Tensor) -> Tensor:
    """XᴴY, where X is `x` if tall and `xᴴ` if wide: `(*, k, k)` with k = min(n, p)."""
    return x @ y.mH if is_wide(x) else x.mH @ y


def right_multiply(x: Tensor, s: Tensor) -> Tensor:
    """X·S in the layout of `x`, where X is `x` if tall and `xᴴ` if wide; S is `(*, k, k)`."""
    return s.mH @ x if is_wide(x) else x @ s


def gram_defect(x: Tensor) -> Tensor:
    """XᴴX - I, `(*, k, k)`: zero where the columns (the rows, if wide) are orthonormal."""
    G = gram(x, x)
    return G - torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)


def spectral_bound(s: Tensor) -> Tensor:
    """Upper bound of ‖S‖₂ for Hermitian `(*, k, k)`: min(‖S‖_F, largest row sum), shape `(*,)`."""
    rows = s.abs().sum(-1).amax(-1) if s.shape[-1] else s.abs().sum((-2, -1))
    return torch.minimum(torch.linalg.matrix_norm(s), rows)


# --- polar factor by matrix products ---------------------------------------------------------

# Where ‖YᴴY - I‖ is below this, one polynomial finishes; it is also left by any cubic sweep.
_POLYNOMIAL_EXPONENT = -3
_MAX_SWEEPS = 6


def step_cap(dtype: torch.dtype) -> float:
    """Longest tangent step whose Gram matrix still resolves the starting point: ¼·eps^(-1/2)."""
    return 0.25 / math.sqrt(torch.finfo(dtype).eps)


def _cubic(a: Any, b: Any) -> tuple[Any, Any, Any]:
    """The odd cubic c₁x - c₃x³ nearest to 1 on [a, b] and its largest error.

    CANS (Grishina, Smirnov, Rakhuba, arXiv 2506.10935, Prop. 2). Floats or device scalars.
    """
    q = a * a + a * b + b * b
    two_e3 = 2 * (q / 3) ** 1.5
    r = a * b * (a + b)
    return 2 * q / (two_e3 + r), 2 / (two_e3 + r), abs(two_e3 - r) / (two_e3 + r)


def _cubic_steps(dtype: torch.dtype) -> int:
    """How many bring the singular values of X + ξ, with ξ within `step_cap`, to 1."""
    a, b, steps = 0.7, math.hypot(1, step_cap(dtype)), 0
    while b - a > 4 * torch.finfo(dtype).eps:
        error = _cubic(a, b)[2]
        a, b, steps = 1 - error, 1 + error, steps + 1
    return steps


def _inverse_sqrt(S: Tensor, bound: Any, steps: int | None) -> Tensor:
    """(I + S)^(-1/2) for Hermitian S with -1/2 ≤ S ≤ bound, by products of k×k matrices.

    `steps` cubic iterations, or, with None and a float `bound`, as many as the dtype needs.
    """
    eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    G, Z = S + eye, None
    # Singular values of X + ξ are at least 1; the floor leaves room for an X that is off by .3.
    a = max(1 - bound, 0.5) if steps is None else (1 - bound).clamp(min=0.5)
    a, b = a**0.5, (1 + bound) ** 0.5
    remaining = 100 if steps is None else steps
    while True:
        c1, c3, error = _cubic(a, b)
        P = c1 * eye - c3 * G
        Z = P if Z is None else Z @ P
        remaining -= 1
        if remaining == 0 or (steps is None and error <= torch.finfo(S.dtype).eps):
            return Z
        G = sym(P @ (G @ P))
        a, b = 1 - error, 1 + error


@cache
def _polynomial(exponent: int, dtype: torch.dtype) -> tuple[float, ...]:
    """Coefficients of g with s·g(s) = (1 + s)^(-1/2) - 1 to eps/2 for |s| ≤ 2^exponent.

    The Chebyshev interpolant of least degree. g and not s·g is interpolated, so that S = 0 gives 0.
    """
    reach, tolerance = 2.0**exponent, torch.finfo(dtype).eps / 2

    def g(s: np.ndarray) -> np.ndarray:
        root = np.sqrt(1 + s)
        return -1 / (root * (1 + root))

    grid = reach * np.cos(np.linspace(0, np.pi, 200))
    for degree in range(30):
        interpolant = np.polynomial.Chebyshev.interpolate(g, degree, domain=[-reach, reach])
        if reach * np.abs(interpolant(grid) - g(grid)).max() <= tolerance:
            break
    return tuple(map(float, interpolant.convert(kind=np.polynomial.Polynomial).coef))


def _evaluate(coefficients: tuple[float, ...], S: Tensor) -> Tensor:
    """S·g(S), two coefficients for each product (Paterson & Stockmeyer 1973)."""
    S2 = S @ S if len(coefficients) > 1 else S
    value = None
    for k in reversed(range(0, len(coefficients), 2)):
        term = coefficients[k] * S
        if k + 1 < len(coefficients):
            term = term + coefficients[k + 1] * S2
        value = term if value is None else term + S2 @ value
    assert value is not None
    return value


# Where nothing may be read on the host; complex dtypes count as their parts.
_BLIND_STEPS = {dtype: _cubic_steps(dtype) for dtype in (torch.float32, torch.float64)}
_BLIND_POLYNOMIAL = {dtype: _polynomial(_POLYNOMIAL_EXPONENT, dtype) for dtype in _BLIND_STEPS}


def polar(y: Tensor) -> Tensor:
    """Unitary polar factor Y(YᴴY)^(-1/2), by matrix products only.

    `(*, n, p)`, singular values at least about 0.7 (X + ξ with ξ tangent at X has σ ≥ 1) and at
    most `step_cap`. S = YᴴY - I is formed, and Y + Y·q(S) is orthonormal to rounding where ‖S‖ is
    below 1/8: two products with the n×p matrix and a few p×p ones. A larger S is brought there
    first by the cubic iteration, which in a Gram matrix of condition ‖S‖ loses that many digits. On
    an eager CPU tensor the number of products follows the data; elsewhere it is fixed, so that
    nothing is read back to the host.
    """
    if y.numel() == 0:
        return y.clone()
    if not host_readable(y):
        S = gram_defect(y)
        bounds = spectral_bound(S.detach())[..., None, None]
        y = right_multiply(y, _inverse_sqrt(S, bounds, _BLIND_STEPS[y.real.dtype]))
        coefficients = _BLIND_POLYNOMIAL[y.real.dtype]
        return y + right_multiply(y, _evaluate(coefficients, gram_defect(y)))
    for _ in range(_MAX_SWEEPS):
        S = gram_defect(y)
        # A matrix that is not finite must not set the interval of the others in its batch.
        bound = spectral_bound(S.detach()).nan_to_num(0.0, 0.0, 0.0).max().item()
        exponent = math.frexp(max(bound, 2.0**-60))[1]
        if exponent <= _POLYNOMIAL_EXPONENT:
            return y + right_multiply(y, _evaluate(_polynomial(exponent, S.real.dtype), S))
        y = right_multiply(y, _inverse_sqrt(S, bound, None))
    return y


def cap_norm(u: Tensor, limit: float) -> Tensor:
    """Scale each `(*, n, p)` matrix down to Frobenius norm `limit` where it is longer."""
    scale = (limit / torch.linalg.vector_norm(u, dim=(-2, -1), keepdim=True)).clamp(max=1)
    if host_readable(scale) and not bool((scale < 1).any()):
        return u
    return u * scale


def project_polar(a: Tensor) -> Tensor:
    """Nearest matrix with orthonormal columns (rows, if wide) to any `(*, n, p)` matrix: UVᴴ.

    By an SVD, so of any rank (not unique where rank-deficient), followed by one Newton-Schulz
    pass, since an SVD in float32 is orthonormal to 5e-6 only. Synchronises on an accelerator.
    """
    U, _, Vh = torch.linalg.svd(a, full_matrices=False)
    Q = U @ Vh
    return (Q - right_multiply(Q, gram_defect(Q)) / 2).contiguous()


# --- exponential, QR and Cayley ---------------------------------------------------------------


def matrix_exp(a: Tensor) -> Tensor:
    """Exponential of `(*, n, n)` matrices. Synchronises on an accelerator.

    A single matrix is computed in a batch of two: torch's polynomial of degree 8 for a batch of one
    has a wrong coefficient, an error of 1e-10 in float64 and 1e-5 in float32 (pytorch #196592).
    """
    if math.prod(a.shape[:-2]) != 1:
        return torch.linalg.matrix_exp(a)
    return torch.linalg.matrix_exp(torch.stack([a, a]))[0]


def qr_positive(y: Tensor) -> Tensor:
    """The Q of the QR decomposition with a positive diagonal of R, tall `(*, n, p)`, n ≥ p."""
    Q, R = torch.linalg.qr(y)
    d = R.diagonal(dim1=-2, dim2=-1)
    return Q * torch.where(d == 0, torch.ones_like(d), torch.sgn(d)).unsqueeze(-2)


def cayley(x: Tensor, u: Tensor) -> Tensor:
    """Cayley transform of X along the tangent U, tall `(*, n, p)`: (I - W/2)⁻¹(I + W/2)X.

    W = P U Xᴴ - X Uᴴ P with P = I - XXᴴ/2 is skew-Hermitian with WX = U. It has rank 2p, so the
    solve is 2p×2p by the Sherman-Morrison-Woodbury formula (Wen & Yin 2013, lemma 4), and p×p for
    square X, where W = U Xᴴ.
    """
    n, p = x.shape[-2:]
    XhU = x.mH @ u
    if n == p:
        half, eye = skew(XhU) / 2, torch.eye(p, dtype=x.dtype, device=x.device)
        return x @ torch.linalg.solve_ex(eye - half, eye + half)[0]
    PU = u - x @ (XhU / 2)
    A, B = torch.cat([PU, x], -1), torch.cat([x, -PU], -1)  # W = A Bᴴ, both n×2p
    eye = torch.eye(2 * p, dtype=x.dtype, device=x.device)
    return x + A @ torch.linalg.solve_ex(eye - B.mH @ A / 2, B.mH @ x)[0]
