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
from functools import cache, wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from riemopt import _torch_workarounds
from riemopt.linalg.backends import is_traced as is_traced
from riemopt.linalg.backends import known_all as known_all
from riemopt.linalg.backends import reads_are_free as reads_are_free
from riemopt.linalg.backends import steps_are_known_to_count as steps_are_known_to_count

host_readable = reads_are_free

HALF = (torch.bfloat16, torch.float16)
"""Dtypes that no factorisation takes, and that are computed with in float32."""

_Function = TypeVar("_Function", bound=Callable[..., Tensor])
_AnyFunction = TypeVar("_AnyFunction", bound=Callable[..., Any])


def upcast(function: _Function) -> _Function:
    """Decorator: compute in float32 what is given in half precision, and round the result."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        halves = [a.dtype for a in args if isinstance(a, Tensor) and a.dtype in HALF]
        if not halves:
            return function(*args, **kwargs)
        full = (a.float() if isinstance(a, Tensor) and a.dtype in HALF else a for a in args)
        return function(*full, **kwargs).to(halves[0])

    return cast(_Function, wrapper)


def exact_products(function: _AnyFunction) -> _AnyFunction:
    """Decorator: float32 products in float32, whatever speed the user prefers elsewhere.

    From TF32 inputs a Gram matrix is known to 3e-4 only, and the surface with it; from bfloat16, to
    2e-3. In a graph of torch.compile the user's setting holds.
    """

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        onednn: Any = torch.backends.mkldnn
        backends = (torch.backends.cuda.matmul, onednn.matmul)
        lowered = [(b, b.fp32_precision) for b in backends if b.fp32_precision in ("tf32", "bf16")]
        for backend, _ in lowered:
            backend.fp32_precision = "ieee"
        try:
            return function(*args, **kwargs)
        finally:
            for backend, precision in lowered:
                backend.fp32_precision = precision

    return cast(_AnyFunction, wrapper)


def plus_adjoint(a: Tensor, sign: int = 1) -> Tensor:
    """A + Aᴴ of `(*, n, n)` matrices, or A - Aᴴ with `sign` -1: twice a part of A.

    Where it is multiplied next, the product takes that number along as a coefficient.
    """
    n, single = a.shape[-1], a.ndim == 3 and a.shape[0] == 1
    small = n <= 128 if single else a.numel() <= 1 << 16
    if small or a.requires_grad or not host_readable(a):
        return a + a.mH if sign == 1 else a - a.mH  # in the layout of `a`
    # A copy and a sum of equal layouts take less time than one sum of two layouts: 4 times less at
    # 1024², which torch copies in blocks if it is a 2-d tensor, and 3 times less for 10,000 of 3²,
    # column by column.
    adjoint = a.mH
    if n <= 4:
        adjoint = torch.stack(adjoint.resolve_conj().unbind(-2), -2)
    elif single:
        adjoint = adjoint[0].clone(memory_format=torch.contiguous_format).unsqueeze(0)
    else:
        adjoint = adjoint.clone(memory_format=torch.contiguous_format)
    return adjoint.add_(a) if sign == 1 else torch.sub(a, adjoint, out=adjoint)


def sym(a: Tensor) -> Tensor:
    """Hermitian part (A + Aᴴ)/2 of `(*, n, n)` matrices."""
    return plus_adjoint(a).mul_(0.5)


def skew(a: Tensor) -> Tensor:
    """Skew-Hermitian part (A - Aᴴ)/2 of `(*, n, n)` matrices."""
    return plus_adjoint(a, -1).mul_(0.5)


def is_wide(x: Tensor) -> bool:
    """Whether `(*, n, p)` matrices have fewer rows than columns."""
    return x.shape[-2] < x.shape[-1]


def is_square(x: Tensor) -> bool:
    """Whether `(*, n, p)` matrices have n = p."""
    return x.shape[-2] == x.shape[-1]


def product(a: Tensor, b: Tensor) -> Tensor:
    """A·B of batches of equal shape, without the overhead of broadcasting."""
    if a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0]:
        return torch.bmm(a, b)
    return a @ b


def gram(x: Tensor, y: Tensor) -> Tensor:
    """XᴴY, where X is `x` if tall and `xᴴ` if wide: `(*, k, k)` with k = min(n, p)."""
    return product(x, y.mH) if is_wide(x) else product(x.mH, y)


def right_multiply(x: Tensor, s: Tensor) -> Tensor:
    """X·S in the layout of `x`, where X is `x` if tall and `xᴴ` if wide; S is `(*, k, k)`."""
    return product(s.mH, x) if is_wide(x) else product(x, s)


def gram_defect(x: Tensor) -> Tensor:
    """XᴴX - I, `(*, k, k)`: zero where the columns (the rows, if wide) are orthonormal."""
    a, b = (x, x.mH) if is_wide(x) else (x.mH, x)
    return _add_identity(_hermitian_product(a, b), -1)


# Where one product takes so many multiplications, a quarter of them can be had for a copy: on two
# cores 512² takes .88, 1024² .84, 16384×128 .85 of the time; 256² 1.06, 4096×64 .91.
_MIRRORED_WORK, _MIRRORED_SIZE = 1 << 27, 128


def _hermitian_product(a: Tensor, b: Tensor) -> Tensor:
    """A·B that is known to be Hermitian: of a large one, three blocks of four are computed."""
    k, n = a.shape[-2:]
    large = k >= _MIRRORED_SIZE and a.numel() * k >= _MIRRORED_WORK
    if not large or a.numel() > k * n or a.requires_grad or not host_readable(a):
        return product(a, b)
    A, B, half = a.reshape(k, n), b.reshape(n, k), k // 2
    C = A.new_empty(k, k)
    torch.mm(A[:half], B, out=C[:half])
    torch.mm(A[half:], B[:, half:], out=C[half:, half:])
    C[half:, :half] = C[:half, half:].mH
    return C.view(*a.shape[:-2], k, k)


def add_product(
    c: Tensor,
    x: Tensor,
    s: Tensor,
    scale: float = 1,
    *,
    weight: float = 1,
    overwrite: bool = False,
) -> Tensor:
    """weight·C + scale·X·S in the layout of `x`, where X is `x` if tall and `xᴴ` if wide.

    One pass over C for a batch, for which torch has a fused kernel. `overwrite` allows the result
    to take the place of C.
    """
    if c.ndim > 3 and c.shape[:-2] == x.shape[:-2] == s.shape[:-2]:
        C, X, S = (m.flatten(0, -3) for m in (c, x, s))
        return add_product(C, X, S, scale, weight=weight, overwrite=overwrite).view(c.shape)
    a, b = (s.mH, x) if is_wide(x) else (x, s)
    if c.ndim == a.ndim == b.ndim == 3 and c.shape[0] == a.shape[0] == b.shape[0]:
        add = c.baddbmm_ if overwrite else c.baddbmm
        return add(a, b, beta=weight, alpha=scale)
    return torch.add(c if weight == 1 else weight * c, a @ b, alpha=scale)


def add_scaled(x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
    """X + t·U in one pass; `t` is a number, or a tensor that broadcasts."""
    if isinstance(t, Tensor):
        return torch.addcmul(x, u, t) if t.ndim == x.ndim else x + t * u
    return _torch_workarounds.add_scaled(x, u, t)  # workaround: inductor_stale_alpha


def average(new: Any, old: Any, decay: float | Tensor, *, overwrite: bool = False) -> Any:
    """decay·old + (1 - decay)·new of tensors, in one pass, or of numbers.

    `overwrite` allows the result to take the place of `new`, where autograd does not look on.
    """
    if not isinstance(new, Tensor):
        return decay * old + (1 - decay) * new
    if isinstance(decay, Tensor):
        decay = decay.to(new.dtype)
    in_place = overwrite and not torch.is_grad_enabled()
    return new.lerp_(old, decay) if in_place else torch.lerp(new, old, decay)


def combine(m: Tensor, g: Tensor, decay: float | Tensor, weight: float | Tensor) -> Tensor:
    """decay·M + weight·G, in one pass if `weight` is 1."""
    unweighted = not isinstance(weight, Tensor) and weight == 1
    return add_scaled(g if unweighted else weight * g, m, decay)


def maximum(a: Any, b: Any) -> Any:
    """The larger one, of tensors or of numbers."""
    return torch.maximum(a, b) if isinstance(b, Tensor) else max(a, b)


def root_plus(a: Any, eps: float) -> Any:
    """√a + eps of a number, or of a tensor that may be overwritten if autograd does not look on."""
    if not isinstance(a, Tensor):
        return (math.sqrt(a) if a >= 0 else math.nan) + eps
    return a.sqrt() + eps if torch.is_grad_enabled() else a.sqrt_().add_(eps)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """A/B, in the memory of B where that can be."""
    if reads_are_free(b) and not torch.is_grad_enabled():
        return torch.div(a, b, out=b)
    return a / b


def squared_norm(u: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Σ|u|² over `dims`, kept with size 1; real."""
    return torch.linalg.vector_norm(u, dim=dims, keepdim=True).square()


def is_resolved(difference: Tensor, whole: Tensor) -> bool:
    """Whether whole - part kept all but three digits in every entry; read on the host."""
    return bool((difference > 1e-3 * whole).all())


def largest_entries(u: Tensor) -> Tensor:
    """max |u| of each member of a stack; NaN or infinite if an entry is. Complex: of the parts."""
    parts = torch.view_as_real(u) if u.is_complex() else u
    if parts.numel() == 0:
        return parts.new_zeros(len(u))
    if is_traced() and parts.ndim > 2:
        # Rows first: so torch.compile finds the largest of each in the loop that makes `u`.
        return parts.abs().amax(-1).flatten(1).amax(1)
    flat = parts.reshape(len(u), -1)
    return torch.maximum(flat.amax(1), -flat.amin(1))


# --- polar factor by matrix products ---------------------------------------------------------

# Where ‖YᴴY - I‖ is below this, one polynomial finishes; it is also left by any cubic sweep.
_POLYNOMIAL_REACH = 1 / 8
_MAX_SWEEPS = 6
_MAX_SQUARE_SWEEPS = 40  # each takes tiny singular values, of an edited weight, times 1.5 or more


def step_cap(dtype: torch.dtype) -> float:
    """Longest tangent step whose Gram matrix still resolves the starting point: ¼·eps^(-1/2)."""
    return 0.25 / math.sqrt(torch.finfo(dtype).eps)


def _flattest_cubic(a: Any, b: Any) -> tuple[Any, Any, Any]:
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
        error = _flattest_cubic(a, b)[2]
        a, b, steps = 1 - error, 1 + error, steps + 1
    return steps


def _add_identity(a: Tensor, c: float | Tensor) -> Tensor:
    """A + c·I in place; `c` is a number, or one number `(*, 1, 1)` for each matrix."""
    a.diagonal(dim1=-2, dim2=-1).add_(c.squeeze(-1) if isinstance(c, Tensor) else c)
    return a


def _spread(bound: Any) -> tuple[Any, Any]:
    """The least and the largest singular value of Y if ‖YᴴY - I‖ ≤ bound.

    Those of X + ξ are at least 1; the floor of .7 leaves room for an X that is off by .3.
    """
    low = (1 - bound).clamp(min=0.5) if isinstance(bound, Tensor) else max(1 - bound, 0.5)
    return low**0.5, (1 + bound) ** 0.5


def _sweep(y: Tensor, S: Tensor, a: Any, b: Any) -> tuple[Tensor, tuple[Any, Any]]:
    """Y(c₁I - c₃YᴴY) with singular values nearer to 1 than those of Y, in [a, b]; and their range.

    Of square matrices, where iterates of the p×p inverse root would cost more. S may be
    overwritten.
    """
    c1, c3, error = _flattest_cubic(a, b)
    P = -c3 * S if S.requires_grad or isinstance(c3, Tensor) else S.mul_(-c3)
    return product(y, _add_identity(P, c1 - c3)), (1 - error, 1 + error)


def _inverse_sqrt(S: Tensor, bound: Any, steps: int | None) -> Tensor:
    """(I + S)^(-1/2) for Hermitian S with -1/2 ≤ S ≤ bound, by products of k×k matrices.

    `steps` cubic iterations, or, with None and a float `bound`, as many as the dtype needs. S may
    be overwritten.
    """
    G = _add_identity(S.clone() if S.requires_grad else S, 1)  # autograd may have saved S
    Z: Tensor | None = None
    del S
    a, b = _spread(bound)
    remaining = 100 if steps is None else steps
    while True:
        c1, c3, error = _flattest_cubic(a, b)
        P = _add_identity(-c3 * G, c1)
        Z = P if Z is None else product(Z, P)
        remaining -= 1
        if remaining == 0 or (steps is None and error <= torch.finfo(G.dtype).eps):
            return Z
        G = product(G, P)
        G = product(P, G)
        del P
        G = sym(G)
        a, b = 1 - error, 1 + error


def _chebyshev(count: int, reach: float) -> tuple[tuple[float, ...], float]:
    """`count` coefficients of g with s·g(s) ≈ (1 + s)^(-1/2) - 1 for |s| ≤ reach, and the error.

    The Chebyshev series of g, cut off. Of g, and not of s·g, so that S = 0 gives 0.
    """

    def g(s: np.ndarray) -> np.ndarray:
        root = np.sqrt(1 + s)
        return -1 / (root * (1 + root))

    series = np.polynomial.Chebyshev.interpolate(g, 24, domain=[-reach, reach])
    error = reach * np.abs(series.coef[count:]).sum()
    coefficients = series.truncate(count).convert(kind=np.polynomial.Polynomial).coef
    padding = [0.0] * (count - len(coefficients))  # numpy drops trailing zeros
    return (*map(float, coefficients), *padding), float(error)


def _reach(count: int, dtype: torch.dtype) -> float:
    """The widest interval, in steps of a tenth, where `count` coefficients are exact to eps/2."""
    reach = _POLYNOMIAL_REACH
    while _chebyshev(count, reach)[1] > torch.finfo(dtype).eps / 2:
        reach *= 0.9
    return reach


def _widest_polynomial(dtype: torch.dtype) -> tuple[float, ...]:
    """The shortest that is exact to eps/2 for |s| ≤ `_POLYNOMIAL_REACH`."""
    count = 2
    while _chebyshev(count, _POLYNOMIAL_REACH)[1] > torch.finfo(dtype).eps / 2:
        count += 2
    return _chebyshev(count, _POLYNOMIAL_REACH)[0]


@cache
def _polynomials(dtype: torch.dtype) -> tuple[tuple[float, tuple[float, ...]], ...]:
    """`(reach, coefficients)` by cost, exact to eps/2 for |s| ≤ reach, up to the widest reach.

    One coefficient costs no product, two cost S², and each further pair one more.
    """
    widest = _widest_polynomial(dtype)
    shorter = [(_reach(n, dtype), n) for n in (1, *range(2, len(widest), 2))]
    return (*((r, _chebyshev(n, r)[0]) for r, n in shorter), (_POLYNOMIAL_REACH, widest))


def _evaluate(coefficients: tuple[float, ...], S: Tensor, S2: Tensor) -> tuple[Tensor, float]:
    """`(P, c)` with c·P = S·g(S), two coefficients for each product (Paterson & Stockmeyer 1973).

    No pass over a matrix is spent on multiplying with a coefficient: products take them along. S
    may be overwritten.
    """
    k = len(coefficients) - 2
    value, scale = None, 1.0
    while True:
        ratio = coefficients[k + 1] / coefficients[k]
        if k == 0 and not S.requires_grad:
            pair = S.add_(S2, alpha=ratio)
        else:
            pair = torch.add(S, S2, alpha=ratio)
        if value is None:
            value, scale = pair, coefficients[k]
        else:
            value = add_product(pair, S2, value, scale, weight=coefficients[k], overwrite=True)
            scale = 1.0
        if k == 0:
            return value, scale
        k -= 2


# Where nothing may be read on the host; complex dtypes count as their parts.
_BLIND_STEPS = {dtype: _cubic_steps(dtype) for dtype in (torch.float32, torch.float64)}
_BLIND_POLYNOMIAL = {dtype: _widest_polynomial(dtype) for dtype in _BLIND_STEPS}


def _norms(s: Tensor) -> Tensor:
    return torch.linalg.vector_norm(s.detach() if s.requires_grad else s, dim=(-2, -1))


def _largest(norms: Tensor, limit: float = math.inf) -> float:
    """Read on the host. A matrix that is not finite does not count for the others of its batch.

    With a `limit` it does: its norm may be infinite since a long step overflowed when squared.
    """
    largest: float = norms.max().item()
    if math.isfinite(largest):
        return largest
    if limit < math.inf:
        return math.inf
    finite: float = norms.nan_to_num(0.0, 0.0, 0.0).max().item()
    return finite


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
    if host_readable(y):
        factor = _polar_on_host(y)
        assert factor is not None
        return factor
    steps = _BLIND_STEPS[y.real.dtype]
    S = gram_defect(y)
    bound = _norms(S)[..., None, None]
    if is_square(y):
        interval = _spread(bound)
        for _ in range(steps):
            y, interval = _sweep(y, S, *interval)
            S = gram_defect(y)
    else:
        y = right_multiply(y, _inverse_sqrt(S, bound, steps))
        S = gram_defect(y)
    P, scale = _evaluate(_BLIND_POLYNOMIAL[y.real.dtype], S, product(S, S))
    return add_product(y, y, P, scale)


def _polar_on_host(y: Tensor, limit: float = math.inf) -> Tensor | None:
    """The polar factor of X + U; None where U may be longer than `limit`."""
    (linear_reach, linear), *longer = _polynomials(y.real.dtype)
    square = is_square(y)
    if square:
        # All products cost the same, and a sweep with its Gram matrix takes two, where a step of
        # the inverse root takes three and longer polynomials more memory.
        del longer[1:]
    swept: tuple[float, float] | None = None
    for _ in range(_MAX_SQUARE_SWEEPS if square else _MAX_SWEEPS):
        S = gram_defect(y)
        bound = _largest(_norms(S), limit)
        if _is_too_long(bound, S, limit):
            return None
        if bound <= linear_reach:
            return add_product(y, y, S, linear[0])
        if bound <= longer[-1][0] * S.shape[-1] ** 0.25:  # else ‖S²‖^½ is above it
            S2 = _hermitian_product(S, S)
            # ‖S²‖^½ is nearer to the spectral norm than ‖S‖, and S² is needed anyway.
            bound = min(bound, _largest(_norms(S2)) ** 0.5)
            for reach, coefficients in longer:
                if bound <= reach:
                    P, scale = _evaluate(coefficients, S, S2)
                    del S, S2
                    return add_product(y, y, P, scale)
            del S2
        if square:
            a, b = _spread(bound)
            if swept is not None:  # the floor of .7 held before the first sweep
                a, b = max(swept[0], (1 - min(bound, 1)) ** 0.5), min(swept[1], b)
            y, swept = _sweep(y, S, a, b)
            continue
        root = _inverse_sqrt(S, bound, None)
        del S
        y = right_multiply(y, root)
        del root
    return y


def _is_too_long(bound: float, S: Tensor, limit: float) -> bool:
    """Whether U may be longer than `limit`, where ‖S‖ ≤ bound.

    ‖U‖² = tr UᴴU ≤ √p·‖UᴴU‖, and UᴴU = S for a tangent U: no need to measure U itself.
    """
    return bound * S.shape[-1] ** 0.5 > limit**2


def polar_step(x: Tensor, u: Tensor, t: float | Tensor = 1.0) -> Tensor:
    """Polar factor of X + t·U, with t·U cut to the length `step_cap`."""
    limit = step_cap(u.dtype)
    if host_readable(u) and u.numel():
        factor = _polar_on_host(add_scaled(x, u, t), limit)
        if factor is not None:
            return factor
    return polar(x + cap_norm(t * u, limit))


# --- the cubic retraction of unitary groups ----------------------------------------------------

_LONGEST_CUBIC = 8.0  # of a step, as the root of ‖UᴴU‖; a half turn is reached at 2.8
_SHORT_CUBIC = 0.25  # ‖S‖ up to which S may be taken as YᴴY - I
_LARGE = 512  # rows from which `_spectral_bound` costs less than it saves


def cubic_step(x: Tensor, u: Tensor, t: float | Tensor = 1.0) -> Tensor:
    """Unitary polar factor of Y - ½(X + ¼t·U)S, where Y = X + t·U and S = t²·UᴴU; X is square.

    With t·U = XΩ, Ω skew-Hermitian, that is X(I + Ω + Ω²/2 + Ω³/8), which agrees with X·exp(Ω) to
    second order and is unitary up to Ω⁶/64: for ‖Ω‖₂ ≤ .14 to rounding in float32, so that two
    products are enough (of Y - ½YS, as much work, ¾Ω⁴ would be left). S is taken as YᴴY - I where
    it is small and may be read; that holds the defect of X too, and leaves ¾ of its square. (Where
    X is off, the point reached depends on that, by the defect times the step.) Steps with ‖S‖ above
    64 are cut to that length.
    """
    if not u.numel() or not all(host_readable(a) for a in (x, u, t) if isinstance(a, Tensor)):
        return polar(_long_cubic(x, u, t))
    y = add_scaled(x, u, t)
    S = gram_defect(y)
    norm, square = _bounds(S)
    if norm > _SHORT_CUBIC:  # a defect as large must not be taken for a step
        del y, S
        factor = _polar_on_host(_long_cubic(x, u, t))
    else:
        overwrite = y.is_contiguous() and not y.requires_grad
        y = add_product(y, add_scaled(x, u, 0.25 * t), S, -0.5, overwrite=overwrite)
        n, eps = S.shape[-1], torch.finfo(S.dtype).eps
        if norm <= (64 * eps) ** (1 / 3) and square <= 8 * eps * math.sqrt(n):
            return y  # the cubic's own error is ‖S‖³/128, and what it leaves of a defect ¾S²
        del S
        factor = _polar_on_host(y)
    assert factor is not None
    return factor


def _bounds(S: Tensor) -> tuple[float, float]:
    """Bounds of ‖S‖₂ and of the largest entry of S² for Hermitian S, read on the host.

    By the longest row r: ‖S‖₂ ≤ √n·r, and no entry of S² is above r². Of small matrices the norm
    ‖S‖ does for both. Infinite where S is not finite.
    """
    n = S.shape[-1]
    S = S.detach() if S.requires_grad else S
    if n < 16:
        norm = _largest(_norms(S), 1.0)
        return norm, norm**2
    rows = torch.linalg.vector_norm(S, dim=-1)
    r = _largest(rows, 1.0)
    norm = math.sqrt(n) * r
    if n >= _LARGE and r <= _SHORT_CUBIC:  # ‖S‖₂ ≥ r, and beyond it products may overflow
        norm = min(norm, _spectral_bound(S, rows))
    return norm, r**2


def _spectral_bound(S: Tensor, rows: Tensor) -> float:
    """Four times what Hermitian S stretches its longest rows by: above ‖S‖₂, save by design.

    A direction that S stretches by λ has a share of at least λ/√n in some row. For the Gram matrix
    of a random step it is three times ‖S‖₂, where the Frobenius norm is √(n/8) times as large.
    """
    longest = rows.topk(8, dim=-1)
    index = longest.indices[..., None].expand(*S.shape[:-2], 8, S.shape[-1])
    stretched = torch.linalg.vector_norm(S.gather(-2, index) @ S, dim=-1)
    return 4 * _largest(stretched / longest.values)


def _long_cubic(x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
    """Y - ½(X + ¼t·U)S with S = t²·UᴴU, of a step that is cut where it is too long."""
    u = cap_norm(t * u, step_cap(u.dtype))
    S = gram(u, u)
    scale = cubic_cut(S)
    if S.requires_grad or u.shape != x.shape or not host_readable(x):
        u, S = scale * u, scale.square() * S
        return add_product(x + u, x + 0.25 * u, S, -0.5)
    u, S = u.mul_(scale), S.mul_(scale.square())
    y = x + u
    return add_product(y, u.mul_(0.25).add_(x), S, -0.5, overwrite=y.is_contiguous())


def cubic_cut(S: Tensor) -> Tensor:
    """What part of a step with UᴴU = S is taken, `(*, 1, 1)`: 1, or less where it is too long."""
    norm = torch.linalg.vector_norm(S, dim=(-2, -1), keepdim=True)
    return _LONGEST_CUBIC / norm.clamp(min=_LONGEST_CUBIC**2).sqrt()


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
    """Exponential of `(*, n, n)` matrices. Synchronises on an accelerator."""
    return _torch_workarounds.matrix_exp(a)  # workaround: matrix_exp_of_one_matrix


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
