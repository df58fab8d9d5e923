"""The Lorentz model: hyperbolic space as one sheet of a hyperboloid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import Curvature, curvature, hyperboloid, upcast
from riemopt.linalg.curvature import dot, plus, root, squares
from riemopt.linalg.hyperboloid import (
    frame_divisor,
    from_frame,
    height,
    lift,
    lift_tangent,
    to_frame,
)
from riemopt.manifolds.curved import Curved


@final
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Lorentz(Curved):
    """{x : -x₀² + x₁² + … + xₙ² = -1/c, x₀ > 0}, `(*batch, n + 1)`.

    With ⟨u, v⟩ = -u₀v₀ + u₁v₁ + … + uₙvₙ, positive on tangent vectors: hyperbolic space of
    curvature -c (Nickel & Kiela 2018; Boumal 2023, §7.6).

    Dimension: n for n + 1 entries.

    Args:
        c: minus the curvature, positive: a number, or a tensor of one number, as of `PoincareBall`,
            whose docstring says what a learned one means.

    Metric: that of hyperbolic space; x₀ = cosh(√c·r)/√c at the distance r from the origin. The unit
    of `lr`, and `second_moment="point"` as the better choice, as of `PoincareBall`.

    Step: the geodesic. x₀ is stored, but every method computes it from the other entries, so that a
    rounded point is a point, and nothing of size e²ʳ cancels. Distances of float32 points are right
    to a few eps at every radius; those of float64 points are off by less than rounding moves them:
    an angle is rounded by eps, which is eps·eʳ/2 units of length at the radius r. Points are kept
    at √c‖(x₁, …, xₙ)‖ ≤ 1/eps (eps of float32 for half precision), a radius of 16.6/√c in float32
    and 36.7/√c in float64; steps are no longer than that.

    Cost: about seventy passes over the points for a step of Adam; nothing waits for the device.

    For: hierarchies, graphs and image–text models, where points may be far out.

    Not for: points of which most are within a radius of 5: in n coordinates the ball does the same
    by less work.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Lorentz
        >>> lorentz = Lorentz()
        >>> x = lorentz.exp0(torch.tensor([3.0, 4.0]))  # at the distance 5 from the origin
        >>> lorentz.dist(x, torch.tensor([1.0, 0.0, 0.0]))
        tensor(5.)
    """

    c: Curvature = 1.0

    def __init__(self, c: Curvature = 1.0) -> None:
        self._set_curvature(c, positive=True)

    # --- the contract ---

    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """u - Jx⟨Jx, u⟩/‖Jx‖², J = diag(-1, 1, …, 1): orthogonal in the ambient inner product."""
        normal = _flip(x)
        return torch.addcmul(u, normal, dot(normal, u) / squares(x), value=-1)

    @upcast
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """Jg + c·x·Σxᵢgᵢ."""
        return plus(_flip(g), self.c, x, dot(x, g))

    @override
    @upcast
    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        grad = self.egrad2rgrad(x, g)
        mean = linalg.average(grad, self.proj_tangent(x, m), decay)
        return mean, squares(self._to_frame(x, grad))

    @override
    @upcast
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """`egrad2rgrad(x, h)` + c·u·Σxᵢgᵢ."""
        return self.egrad2rgrad(x, h) + u * (self.c * dot(x, g))

    @upcast
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """-u₀v₀ + Σuᵢvᵢ of tangents, by vectors carried to the origin: never negative for u = v."""
        U = self._to_frame(x, u)
        product = squares(U) if u is v else dot(U, self._to_frame(x, v))
        return product if keepdim else product.squeeze(-1)

    @upcast
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic, of steps that are cut to the length 16/√c (float32) or 36/√c (float64)."""
        return self.curve(x, u, 1.0)

    @override
    @upcast
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        frame = self._to_frame(x, u)
        return lift(hyperboloid.step(_space(x), _space(u), t, self.c, frame), self.c)

    @upcast
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """cosh(√c‖u‖)x + sinh(√c‖u‖)u/(√c‖u‖), cut as in `retract`.

        Unlike there, a long way inwards from far out keeps its digits.
        """
        return lift(hyperboloid.geodesic(_space(x), _space(u), self.c), self.c)

    @upcast
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """θ/sinh(θ)·(y - cosh(θ)x) with θ = √c·dist."""
        x, y = _space(x), _space(y)
        q = hyperboloid.chord(x, y, self.c)
        ratio = curvature.asin_ratio(-q / 4, -1.0) * (1 + q / 4).rsqrt()
        u = ratio.to(x.dtype) * (y - x - (q / 2).to(x.dtype) * x)
        return lift_tangent(x, u, self.c)

    @upcast
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """2·asinh(√q/2)/√c with q = -2 - 2c⟨x, y⟩, which is a sum of positive terms."""
        q = hyperboloid.chord(_space(x), _space(y), self.c).squeeze(-1)
        positive = q > 0
        half = torch.where(positive, q, 1).sqrt() / 2
        distance = torch.where(positive, torch.asinh(half), 0) * (2 / root(self.c))
        return distance.to(x.dtype)

    @upcast
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """In parallel by way of the origin, as of `PoincareBall`; it keeps inner products."""
        return from_frame(_space(y), self._to_frame(x, v), self.c)

    @upcast
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v + c⟨y, v⟩(x + y)/(1 - c⟨x, y⟩), by a gyration of the vector carried to the origin."""
        p, gap_p = hyperboloid.to_ball(_space(x), self.c)
        q, gap_q = hyperboloid.to_ball(_space(y), self.c)
        frame = self._to_frame(x, v)
        turned = curvature.gyrate(p, q, frame, -self.c, gap_p, gap_q)
        return from_frame(_space(y), turned, self.c)

    @override
    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return self.transport(x, y, m)

    @upcast
    def project(self, a: Tensor) -> Tensor:
        """Nearest point in the ambient norm, by bisection; of all points at most the rim's height.

        About 200 passes over the points.
        """
        self._need_real(a)
        return lift(hyperboloid.nearest(a, self.c), self.c)

    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """|x₀ - √(1/c + x₁² + … + xₙ²)|."""
        return (x[..., :1] - height(_space(x), self.c) / root(self.c)).abs().squeeze(-1)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        self._check_vectors(shape, 2)

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n of vectors with n + 1 entries."""
        return shape[-1] - 1

    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Normal around the origin, at distances of about 1/√c: as of `PoincareBall`."""
        self.check_shape(shape)
        n = shape[-1] - 1
        a = torch.randn(*shape[:-1], n, generator=generator, dtype=dtype, device=device)
        return self.exp0(a / (n**0.5 * root(self.c)))

    @override
    @upcast
    def random_tangent(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal in the metric at `x`."""
        space = _space(x)
        noise = torch.randn(space.shape, generator=generator, dtype=x.dtype, device=x.device)
        return from_frame(space, noise, self.c)

    @override
    def _measure(self, x: Tensor) -> Tensor:
        return frame_divisor(_space(x), self.c)

    def _to_frame(self, x: Tensor, u: Tensor) -> Tensor:
        return to_frame(_space(x), _space(u), self.c, self._measured(x))

    # --- what layers call ---

    @upcast
    def exp0(self, u: Tensor) -> Tensor:
        """exp at the origin (1/√c, 0, …), of the n spatial entries of a tangent vector there."""
        return lift(u * curvature.sin_ratio(-self.c * squares(u), -1.0), self.c)

    @upcast
    def log0(self, y: Tensor) -> Tensor:
        """Inverse of `exp0`: `(*, n)`."""
        space = _space(y)
        return space * curvature.asin_ratio(-self.c * squares(space), -1.0)

    @upcast
    def dist_to_hyperplane(self, x: Tensor, p: Tensor, a: Tensor, signed: bool = False) -> Tensor:
        """Distance of `x` from the geodesic hyperplane through `p` that is normal to `a`.

        asinh(√c⟨x, a⟩/‖a‖)/√c for a tangent `a` at `p`. The length of `a` does not matter. With
        `signed`, positive on the side to which `a` points.
        """
        wide = linalg.sums_exactly(x)
        x, p, normal = (_space(b).to(wide) for b in (x, p, a))
        normal = to_frame(p, normal, self.c, frame_divisor(p, self.c))
        (y, gap_y), (q, gap_q) = hyperboloid.to_ball(x, self.c), hyperboloid.to_ball(p, self.c)
        distance = curvature.dist_to_hyperplane(y, q, normal, -self.c, gap_y, gap_q)
        return (distance if signed else distance.abs()).squeeze(-1).to(a.dtype)

    def wrapped_normal(
        self,
        mean: Tensor,
        std: float | Tensor = 1.0,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Samples around `mean`, one for each, as `PoincareBall.wrapped_normal` draws them.

        `std` broadcasts to the n spatial entries. Nagano et al. 2019, algorithm 1.
        """
        space = _space(mean)
        noise = torch.randn(space.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return self.exp(mean, from_frame(space, std * noise, self.c))


def _space(x: Tensor) -> Tensor:
    return x[..., 1:]


def _flip(u: Tensor) -> Tensor:
    """Ju."""
    flipped = u.clone()
    flipped[..., :1].neg_()
    return flipped
