"""Vectors in a space of constant curvature κ, as points of a ball: Möbius addition and gyrations.

A point is the last dimension of a tensor. `k` is κ, a number or a tensor of one number; κ < 0 is
hyperbolic, κ > 0 a sphere in stereographic projection, and everything is smooth in between. Near
the boundary of the ball 1 - ‖x‖² is a difference of nearly equal numbers on which all else depends:
it is `gap`, and the formulas are written such that nothing else cancels.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from riemopt.linalg.backends import sums_exactly

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
    if not isinstance(k, Tensor) and k == 0:
        return torch.ones_like(w)
    small = w.abs() < SMALL
    near, root = torch.where(small, w, 0), torch.where(small, 1, w.abs()).sqrt()
    near = functools.reduce(lambda sum, term: sum * near + term, reversed(series))
    if isinstance(k, Tensor):
        far = torch.where(w < 0, negative(root), positive(torch.where(w < 0, 0.5, root)))
    else:
        far = negative(root) if k < 0 else positive(root)
    return torch.where(small, near, far)


def root(k: Curvature) -> Curvature:
    """√|κ|."""
    return k.abs().sqrt() if isinstance(k, Tensor) else math.sqrt(abs(k))


def margin(dtype: torch.dtype) -> float:
    """How far points are kept from the boundary of the unit ball: √eps, of float32 for half.

    So 1 - ‖x‖² keeps half of the digits. It is at the radius log(2/√eps): 8.7 in float32 and 18.7
    in float64.
    """
    return math.sqrt(torch.finfo(torch.promote_types(dtype, torch.float32)).eps)


def rim(k: Curvature, dtype: torch.dtype) -> Curvature:
    """The largest norm of a point: (1 - √eps)/√-κ, or eps^(-1/2)/√κ, near the point at infinity."""
    near, far = 1 - margin(dtype), 1 / margin(dtype)
    if isinstance(k, Tensor):
        k = k.detach()
        return torch.where(k < 0, near, far) / k.abs().sqrt().clamp(min=margin(k.dtype))
    return math.inf if k == 0 else (near if k < 0 else far) / root(k)


def clip_norm(x: Tensor, limit: Curvature) -> Tensor:
    """Scale points that are longer than `limit` to that length; others keep every bit.

    A copy, contiguous.
    """
    if not isinstance(limit, Tensor) and limit == math.inf:
        return x.clone(memory_format=torch.contiguous_format)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=sums_exactly(x))
    return (x * (limit / norm.clamp(min=limit)).to(x.dtype)).contiguous()


def squares(x: Tensor) -> Tensor:
    """‖x‖² of each point, `(*, 1)`."""
    return x.square().sum(-1, keepdim=True)


def gap(x: Tensor, k: Curvature) -> Tensor:
    """1 + κ‖x‖² of each point, `(*, 1)`, accurate where it is small; at least √eps.

    float32 points are squared and summed in float64, if the device has it.
    """
    exact = (1 + k * squares(x.to(sums_exactly(x)))).clamp(min=margin(x.dtype))
    return exact.to(x.dtype)


def mobius_add(x: Tensor, y: Tensor, k: Curvature, gap_x: Tensor, gap_y: Tensor) -> Tensor:
    """x ⊕ y = x + gₓ(y - κ‖y‖²x)/(gₓg_y - κ‖x + y‖²), with g the gaps.

    Ungar's sum ((1 - 2κ⟨x, y⟩ - κ‖y‖²)x + (1 + κ‖x‖²)y)/(1 - 2κ⟨x, y⟩ + κ²‖x‖²‖y‖²), written such
    that a short y makes a small change, and that the denominator does not cancel for κ < 0.
    """
    denominator = gap_x * gap_y - k * squares(x + y)
    scale = gap_x / denominator.clamp(min=torch.finfo(x.dtype).tiny)
    return x + scale * (y - k * squares(y) * x)


def mobius_difference(x: Tensor, y: Tensor, k: Curvature, gap_x: Tensor) -> Tensor:
    """gₓ(y - x) + κ‖y - x‖²x: a multiple of -x ⊕ y that does not cancel."""
    d = y - x
    return gap_x * d + k * squares(d) * x


def gyrate(x: Tensor, y: Tensor, v: Tensor, k: Curvature, gap_x: Tensor, gap_y: Tensor) -> Tensor:
    """gyr[y, -x]v: how parallel transport from x to y turns a vector; a rotation.

    Ungar's formula with y = x + d, in which every term has a factor d.
    """
    d = y - x
    xv, dv, xd, dd = ((a * b).sum(-1, keepdim=True) for a, b in ((x, v), (d, v), (x, d), (d, d)))
    along_d = k * (xv * gap_x + k * (2 * xd * xv - squares(x) * dv))
    along_x = -k * (dv * gap_x + k * xv * dd)
    return v + 2 * (along_d * d + along_x * x) / (gap_x * gap_y - k * dd)


def dist_to_hyperplane(
    x: Tensor, p: Tensor, a: Tensor, k: Curvature, gap_x: Tensor, gap_p: Tensor
) -> Tensor:
    """asin_κ(2⟨d, a⟩/((1 + κ‖d‖²)‖a‖)) with d = -p ⊕ x, `(*, 1)`; its sign is that of ⟨d, a⟩."""
    along = (mobius_difference(p, x, k, gap_p) * a).sum(-1, keepdim=True)
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
