"""Vectors in a space of constant curvature κ, as points of a ball: Möbius addition and gyrations.

A point is the last dimension of a tensor. `k` is κ, a number or a tensor of one number; κ < 0 is
hyperbolic, κ > 0 a sphere in stereographic projection, and everything is smooth in between. Near
the boundary of the ball 1 - ‖x‖² is a difference of nearly equal numbers on which all else depends:
it is `gap`, and the formulas are written such that nothing else cancels.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from riemopt.linalg.backends import is_recorded_outside, sums_exactly

Curvature = float | Tensor

SMALL = 1e-3
"""Below this |w| a ratio is its power series: five terms are exact to 2e-17."""
TAN = (1.0, 1 / 3, 2 / 15, 17 / 315, 62 / 2835)
SIN = (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880)
ASIN = (1.0, 1 / 6, 3 / 40, 15 / 336, 105 / 3456)


def tan_ratio(w: Tensor, k: Curvature) -> Tensor:
    """tan(√w)/√w, which is tanh(√-w)/√-w for w < 0; `w` has the sign of κ."""
    return _ratio(w, k, TAN, lambda r: torch.tanh(r) / r, lambda r: torch.tan(r) / r)


def sin_ratio(w: Tensor, k: Curvature) -> Tensor:
    """sin(√w)/√w, which is sinh(√-w)/√-w for w < 0."""
    return _ratio(w, k, SIN, lambda r: torch.sinh(r) / r, lambda r: torch.sin(r) / r)


def asin_ratio(w: Tensor, k: Curvature) -> Tensor:
    """asin(√w)/√w, which is asinh(√-w)/√-w for w < 0; w ≤ 1, up to rounding."""
    return _ratio(w, k, ASIN, lambda r: torch.asinh(r) / r, _asin_over)


def _asin_over(r: Tensor) -> Tensor:
    # The derivative of asin at 1 is infinite.
    r = r.clamp(max=1 - torch.finfo(r.dtype).eps)
    return torch.asin(r) / r


def _ratio(
    w: Tensor,
    k: Curvature,
    series: Sequence[float],
    negative: Callable[[Tensor], Tensor],
    positive: Callable[[Tensor], Tensor],
) -> Tensor:
    """A function that is analytic in w, of which there are forms in √-w and √w."""
    if not isinstance(k, Tensor):
        if k == 0:
            return torch.ones_like(w)
        if not is_recorded_outside(w):  # the quotient is right at 0, and its derivative is not
            r = w.abs().clamp(min=torch.finfo(w.dtype).tiny).sqrt()
            return negative(r) if k < 0 else positive(r)
    small = w.abs() < SMALL
    near, root = torch.where(small, w, 0), torch.where(small, 1, w.abs()).sqrt()
    total = torch.full_like(w, series[-1])
    for term in series[-2::-1]:
        total = total * near + term
    if isinstance(k, Tensor):
        far = torch.where(w < 0, negative(root), positive(torch.where(w < 0, 0.5, root)))
    else:
        far = negative(root) if k < 0 else positive(root)
    return torch.where(small, total, far)


def root(k: Curvature) -> Curvature:
    """√|κ|."""
    if isinstance(k, Tensor):  # that of float32 rounds more than points of float64 allow
        return k.abs().to(sums_exactly(k)).sqrt()
    return math.sqrt(abs(k))


def plus(a: Tensor, k: Curvature, b: Tensor, c: Tensor) -> Tensor:
    """a + κbc, by one operator where κ is a number."""
    return a + k * (b * c) if isinstance(k, Tensor) else torch.addcmul(a, b, c, value=k)


def one_plus(k: Curvature, a: Tensor) -> Tensor:
    """1 + κa, by one operator where κ is a number."""
    return 1 + k * a if isinstance(k, Tensor) else torch.rsub(a, 1, alpha=-k)


def margin(dtype: torch.dtype) -> float:
    """How far points are kept from the boundary of the unit ball: √eps, of float32 for half.

    So 1 - ‖x‖² keeps half of the digits. It is at the radius log(2/√eps): 8.7 in float32 and 18.7
    in float64.
    """
    return _MARGINS[dtype]


_DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
)
_MARGINS = {
    dtype: math.sqrt(torch.finfo(torch.promote_types(dtype, torch.float32)).eps)
    for dtype in _DTYPES
}


def edge(k: Curvature, dtype: torch.dtype) -> Curvature:
    """The largest √|κ|‖x‖ of a point: 1 - √eps for κ < 0, eps^(-1/2) for κ > 0 (near infinity)."""
    near, far = 1 - margin(dtype), 1 / margin(dtype)
    if isinstance(k, Tensor):
        full = torch.promote_types(dtype, torch.float32)
        return torch.where(k < 0, k.new_full((), near, dtype=full), k.new_full((), far, dtype=full))
    return near if k < 0 else far


def clip(x: Tensor, k: Curvature, dtype: torch.dtype | None = None) -> Tensor:
    """Scale points that are beyond the edge, of `dtype`, back to it; others keep every bit. A copy.

    `dtype` is that of `x` unless given.
    """
    if isinstance(k, Tensor) or k != 0:
        limit = edge(k, dtype or x.dtype) ** 2
        size = squares(x) * (k.detach() if isinstance(k, Tensor) else k)
        return (x * (limit / size.abs().clamp(min=limit)).sqrt()).contiguous()
    return x.clone(memory_format=torch.contiguous_format)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Σxᵢyᵢ of each point, `(*, 1)`."""
    return (x * y).sum(-1, keepdim=True)


def squares(x: Tensor) -> Tensor:
    """‖x‖² of each point, `(*, 1)`."""
    if is_recorded_outside(x):  # a norm has no second derivative at 0
        return x.square().sum(-1, keepdim=True)
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square()


def gap(x: Tensor, k: Curvature) -> Tensor:
    """1 + κ‖x‖² of each point, `(*, 1)`; at least √eps.

    It cancels near the boundary of the ball. That is good enough for a step; what is measured takes
    `exact_gap`.
    """
    return one_plus(k, squares(x)).clamp(min=margin(x.dtype))


def exact_gap(x: Tensor, k: Curvature) -> Tensor:
    """`gap` of float32 points by sums in float64, if the device has it."""
    return gap(x.to(sums_exactly(x)), k).clamp(min=margin(x.dtype)).to(x.dtype)


def mobius_add(x: Tensor, y: Tensor, k: Curvature, gap_x: Tensor, gap_y: Tensor) -> Tensor:
    """x ⊕ y = (gₓw - κ‖w‖²x)/(gₓg_y - κ‖w‖²) with w = x + y and the gaps g; kept to the edge.

    That is Ungar's ((1 - 2κ⟨x, y⟩ - κ‖y‖²)x + gₓy)/(1 - 2κ⟨x, y⟩ + κ²‖x‖²‖y‖²) in terms which do
    not cancel for κ < 0.
    """
    return _combined(x, x + y, k, gap_x, gap_y)


def _combined(x: Tensor, w: Tensor, k: Curvature, gap_x: Tensor, gap_y: Tensor) -> Tensor:
    """`mobius_add` of x and y = w - x, of which the gap is known.

    What is beyond the edge is divided by more than the denominator, so that it ends there.
    """
    ww = squares(w)
    denominator = plus(-k * ww, 1.0, gap_x, gap_y).clamp(min=torch.finfo(x.dtype).tiny)
    y = plus(gap_x * w, -k, ww, x)
    if is_recorded_outside(y):  # the norm below has no second derivative at 0
        return clip(y / denominator, k)
    if isinstance(k, Tensor) or k != 0:
        size = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
        denominator = torch.maximum(denominator, size * (root(k) / edge(k, x.dtype)))
    return (y / denominator).contiguous()


def geodesic(x: Tensor, u: Tensor, t: float | Tensor, k: Curvature, gap_x: Tensor) -> Tensor:
    """x ⊕ v with v = tan_κ(√κλ‖tu‖/2)·u/(√κ‖u‖), where λ = 2/gₓ; kept to the edge."""
    scale = t / gap_x
    w = k * squares(u) * scale.square()
    ratio = tan_ratio(w, k)
    gap_v = (1 + w * ratio.square()).clamp(min=0)
    return _combined(x, torch.addcmul(x, u, ratio * scale), k, gap_x, gap_v)


def mobius_difference(x: Tensor, y: Tensor, k: Curvature, gap_x: Tensor) -> Tensor:
    """gₓ(y - x) + κ‖y - x‖²x: a multiple of -x ⊕ y that does not cancel."""
    d = y - x
    return gap_x * d + k * squares(d) * x


def gyrate(x: Tensor, y: Tensor, v: Tensor, k: Curvature, gap_x: Tensor, gap_y: Tensor) -> Tensor:
    """gyr[y, -x]v: how parallel transport from x to y turns a vector; a rotation.

    Ungar's formula with y = x + d, in which every term has a factor d.
    """
    d = y - x
    xv, dv, xd, dd = dot(x, v), dot(d, v), dot(x, d), squares(d)
    along_d = k * (xv * gap_x + k * (2 * xd * xv - squares(x) * dv))
    along_x = -k * (dv * gap_x + k * xv * dd)
    return v + 2 * (along_d * d + along_x * x) / (gap_x * gap_y - k * dd)


def dist_to_hyperplane(
    x: Tensor, p: Tensor, a: Tensor, k: Curvature, gap_x: Tensor, gap_p: Tensor
) -> Tensor:
    """asin_κ(2⟨d, a⟩/((1 + κ‖d‖²)‖a‖)) with d = -p ⊕ x, `(*, 1)`; its sign is that of ⟨d, a⟩."""
    along = dot(mobius_difference(p, x, k, gap_p), a)
    norm = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
    s = 2 * along / (gap_p * gap_x * norm)
    return s * asin_ratio(k * s.square(), k)


def radius(k: Curvature) -> Curvature:
    """Of the ball of κ < 0: 1/√-κ; else infinite."""
    if isinstance(k, Tensor):
        return torch.where(k < 0, -k, 0).rsqrt()
    return 1 / root(k) if k < 0 else math.inf


def unit(k: Curvature) -> Curvature:
    """1/√|κ|, the length at which curvature is felt; 1 for κ = 0."""
    if isinstance(k, Tensor):
        return torch.where(k == 0, 1, k.abs()).rsqrt()
    return 1 / root(k) if k else 1.0
