"""Points (x₀, x_s) of the hyperboloid x₀² = 1/c + ‖x_s‖², given by x_s alone.

In x₀² - ‖x_s‖² and its like numbers of size e²ʳ cancel to 1 at the radius r. So nothing here
subtracts them: x₀ follows from x_s, tangent vectors are compared in the *frame* at the origin, to
which they are carried in parallel, and distances are a sum of positive terms.

Arguments `x`, `y`, `u` are spatial parts, `(*, n)`, except of `lift`'s results, `(*, n + 1)`. `c`
is a number or a tensor of one number.
"""

import math

import torch
from torch import Tensor

from riemopt.linalg.backends import known_to_be_below, sums_exactly
from riemopt.linalg.curvature import Curvature, dot, one_plus, plus, root, sin_ratio, squares

HALVINGS = 60
"""Of an interval, to the rounding of float64."""


def height(x: Tensor, c: Curvature) -> Tensor:
    """z = √c·x₀ = √(1 + c‖x_s‖²), `(*, 1)`."""
    return one_plus(c, squares(x)).sqrt()


def lift(x: Tensor, c: Curvature) -> Tensor:
    """The point (x₀, x_s) above x_s, which is scaled to √c‖x_s‖ ≤ 1/eps; contiguous."""
    squared, longest = squares(x), 1 / torch.finfo(x.dtype).eps
    cut = _cut(squared, c, longest)
    if cut is not None:
        squared, x = squared * cut.square(), x * cut
    return torch.cat([(squared + 1 / c).sqrt(), x], -1)


def _cut(squared: Tensor, c: Curvature, longest: float) -> Tensor | None:
    """What part of a vector to keep, by its ‖·‖², for √c‖·‖ ≤ `longest`; None if all, for sure."""
    if not isinstance(c, Tensor) and known_to_be_below(squared, longest**2 / c):
        return None
    return (longest**2 / (c * squared).clamp(min=longest**2)).sqrt()


def lift_tangent(x: Tensor, u: Tensor, c: Curvature) -> Tensor:
    """The tangent (⟨x_s, u_s⟩/x₀, u_s) above u_s."""
    return torch.cat([dot(x, u) * root(c) / height(x, c), u], -1)


def frame_divisor(x: Tensor, c: Curvature) -> Tensor:
    """z(1 + z) with z = `height`: of each point, what `to_frame` needs."""
    z = height(x, c)
    return torch.addcmul(z, z, z)


def to_frame(x: Tensor, u: Tensor, c: Curvature, divisor: Tensor) -> Tensor:
    """u_s - c·x_s⟨x_s, u_s⟩/divisor: the vector `u` at the origin, where ‖·‖ is its length."""
    return plus(u, -c, x, dot(x, u) / divisor)


def from_frame(x: Tensor, u: Tensor, c: Curvature) -> Tensor:
    """The tangent that `to_frame` takes to `u`: u_s = u + c·x_s⟨x_s, u⟩/(1 + z), and u₀."""
    xu = dot(x, u)
    space = plus(u, c, x, xu / (1 + height(x, c)))
    return torch.cat([xu * root(c), space], -1)


def chord(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """q = -2 - 2c⟨x, y⟩ = 4·sinh²(√c·dist/2), `(*, 1)`; accurate at every radius and distance.

    In float64, if the device has it: in float32 the result would be off by 1e-5 at the radius 8,
    and by 1e-3 at 12.

    q = 4·sinh²((r - s)/2) + 2‖x_s‖‖y_s‖(1 - cos φ) of two points (c = 1) with radii r and s that
    are seen from the origin under the angle φ. The first follows from
    sinh(r - s) = ⟨x_s - y_s, x_s + y_s⟩/(‖x_s‖y₀ + ‖y_s‖x₀); the second, for φ < π/2, from the part
    of x_s - y_s that is normal to x_s + y_s.
    """
    scale, wide = root(c), sums_exactly(x)
    x, y = scale * x.to(wide), scale * y.to(wide)
    X, Y = (torch.linalg.vector_norm(a, dim=-1, keepdim=True) for a in (x, y))
    d, s = x - y, x + y
    ds = (d * s).sum(-1, keepdim=True)
    radial = _quotient(ds, X * height(y, 1.0) + Y * height(x, 1.0)).square()
    radial = 2 * radial / (1 + (1 + radial).sqrt())
    cosine = (x * y).sum(-1, keepdim=True)
    acute = cosine > 0
    ss = torch.where(acute, squares(s), 1)
    normal = squares(d - s * (ds / ss)) * ss / torch.where(acute, 2 * (X * Y + cosine), 1)
    return radial + torch.where(acute, normal, 2 * (X * Y - cosine))


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b = 0."""
    zero = b == 0
    return torch.where(zero, 0, a) / torch.where(zero, 1, b)


def step(x: Tensor, u: Tensor, t: float | Tensor, c: Curvature, frame: Tensor) -> Tensor:
    """cosh(ℓ)x_s + sinh(ℓ)tu_s/ℓ with ℓ = √c‖tu‖, cut to log(1/eps); `frame` is u `to_frame`.

    Far out, a step inwards of ℓ > 1 loses e²ˡ of its digits.
    """
    w, taken = _squared_length(frame, t, c)
    cosh, ratio = _cosh_and_sinh(w, c)
    return torch.addcmul(cosh * x, u, ratio * taken)


def geodesic(x: Tensor, u: Tensor, c: Curvature) -> Tensor:
    """`step` without loss of digits.

    Far out, at the radius r, x_s is sinh(r)n; along n the geodesic is at
    ½(1 + q)·sinh(r + ℓ) + ½(1 - q)·sinh(r - ℓ) if its direction has the cosine q with n.
    """
    frame = to_frame(x, u, c, frame_divisor(x, c))
    w, cut = _squared_length(frame, 1.0, c)
    cosh, ratio = _cosh_and_sinh(w, c)
    near = cosh * x + (ratio * cut) * u
    w = c * w
    xx = c * squares(x)
    far = (xx > 1) & (w > 1)
    norm, long = torch.where(far, xx, 1).sqrt(), torch.where(far, w, 1).sqrt()
    n, frame = root(c) * x / norm, root(c) * cut * frame
    along = dot(frame, n)
    across = frame - along * n
    q, p = along / long, squares(across) / long.square()
    inwards = torch.where(q > 0, p / (1 + q.abs()), 1 - q)  # 1 - q, and 1 + q
    outwards = torch.where(q > 0, 1 + q, p / (1 + q.abs()))
    r = torch.asinh(norm)
    top = (outwards * torch.sinh(r + long) + inwards * torch.sinh(r - long)) / 2
    return torch.where(far, (top * n + ratio * across) / root(c), near)


def _squared_length(
    frame: Tensor, t: float | Tensor, c: Curvature
) -> tuple[Tensor, float | Tensor]:
    """‖·‖² of t times a vector, cut to √c‖·‖ ≤ log(1/eps), and what is left of t."""
    w = squares(frame) * t**2
    cut = _cut(w, c, -math.log(torch.finfo(frame.dtype).eps))
    return (w, t) if cut is None else (w * cut.square(), t * cut)


def _cosh_and_sinh(w: Tensor, c: Curvature) -> tuple[Tensor, Tensor]:
    """cosh(√cw) and sinh(√cw)/√cw, smooth at w = 0."""
    half = sin_ratio(w * (c * -0.25), -1.0)
    bend = w * half.square()
    return one_plus(c * 0.5, bend), half * one_plus(c * 0.25, bend).sqrt()


def to_ball(x: Tensor, c: Curvature) -> tuple[Tensor, Tensor]:
    """The point x_s/(1 + z) of the Poincaré ball, and its gap 2/(1 + z), with z = `height`."""
    z = 1 + height(x, c)
    return x / z, 2 / z


def nearest(a: Tensor, c: Curvature) -> Tensor:
    """x_s of the point that is nearest to `a`, `(*, n + 1)`, in the ambient norm: `(*, n)`.

    With s = ‖x_s‖ it solves s(2 - a₀/√(1/c + s²)) = ‖a_s‖, which is increasing in s where it
    exceeds the right side for good: by bisection.
    """
    scale = root(c)
    wide = a.to(sums_exactly(a)) * scale
    top, space = wide[..., :1], wide[..., 1:]
    length = torch.linalg.vector_norm(space, dim=-1, keepdim=True)
    low, high = torch.zeros_like(length), length + top.clamp(min=0)
    for _ in range(HALVINGS):
        s = (low + high) / 2
        short = s * (2 - top / (1 + s.square()).sqrt()) < length
        low, high = torch.where(short, s, low), torch.where(short, high, s)
    # A Newton step, in which autograd finds the derivative of the root.
    s = high.detach()
    lifted = (1 + s.square()).sqrt()
    slope = 2 - top / lifted**3
    s = s - (s * (2 - top / lifted) - length) / torch.where(slope > 0, slope, 1)
    s = s.clamp(min=0, max=1 / torch.finfo(a.dtype).eps)
    return (space * (s / torch.where(length > 0, length, 1)) / scale).to(a.dtype)
