"""The ball of Möbius addition, whose metric is the flat one times a number at each point.

Written once for the curvature κ of either sign: `PoincareBall` and `Stereographic` are this with
an option. Formulas for κ < 0: Ungar 2008; Ganea, Bécigneul & Hofmann 2018, §2; for both signs:
Bachmann, Bécigneul & Ganea 2020.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import Curvature, curvature, upcast
from riemopt.linalg.curvature import exact_gap, gap, squares
from riemopt.manifolds.curved import Curved


class Conformal(Curved):
    """Points with 1 + κ‖x‖² > 0 and ⟨u, v⟩ = λ²Σuᵢvᵢ, λ = 2/(1 + κ‖x‖²); `κ` is `curvature`.

    All methods broadcast over batches, and are differentiable in κ too. Those named after Möbius,
    and `exp0` and `log0` at the origin, are what layers of hyperbolic networks are made of.
    """

    @property
    def curvature(self) -> Curvature:
        """The sectional curvature κ."""
        raise NotImplementedError

    # --- the contract ---

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The vector itself: the set is open."""
        return u

    @upcast
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """g/λ²."""
        return g * (self._measured(x) / 2).square()

    @override
    @upcast
    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """The gradient g/λ² is ‖g‖/λ long."""
        scale = (self._measured(x) / 2).square()
        return linalg.average(g * scale, m, decay), squares(g) * scale

    @override
    @upcast
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """(h - κλ(⟨g, u⟩x + ⟨x, u⟩g - ⟨g, x⟩u))/λ².

        By the acceleration ẍ = κλ(2⟨x, ẋ⟩ẋ - ‖ẋ‖²x) of geodesics.
        """
        gu, xu, gx = ((a * b).sum(-1, keepdim=True) for a, b in ((g, u), (x, u), (g, x)))
        scale = 2 * self.curvature / gap(x, self.curvature)
        return self.egrad2rgrad(x, h + scale * (gu * x + xu * g - gx * u))

    @upcast
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """λ²Σuᵢvᵢ."""
        product = linalg.inner(u, v, -1) * (2 / self._measured(x)).square()
        return product if keepdim else product.squeeze(-1)

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic, kept off the boundary."""
        return self.curve(x, u, 1.0)

    @override
    @upcast
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        return curvature.geodesic(x, u, t, self.curvature, self._measured(x))

    @upcast
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """x ⊕ tan(√κλ‖u‖/2)·u/(√κ‖u‖), and tanh for κ < 0; kept off the boundary.

        As `retract`, but computed in float64.
        """
        k, dtype = self.curvature, x.dtype
        x, u = (a.to(linalg.sums_exactly(a)) for a in (x, u))
        return curvature.clip(curvature.geodesic(x, u, 1.0, k, gap(x, k)).to(dtype), k)

    @upcast
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """2·atan(√κ‖d‖)/(√κλ)·d/‖d‖ with d = -x ⊕ y, and atanh for κ < 0."""
        k = self.curvature
        gap_x, gap_y = exact_gap(x, k), exact_gap(y, k)
        w = k * squares(y - x) / (gap_x * gap_y)
        ratio = curvature.asin_ratio(w, k) * (1 - w).clamp(min=torch.finfo(w.dtype).tiny).rsqrt()
        return curvature.mobius_difference(x, y, k, gap_x) * (ratio / gap_y)

    @upcast
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """2·asin_κ(‖x - y‖/√(gₓg_y)) with g = 1 + κ‖·‖² and asin_κ(s) = asin(√κs)/√κ, or asinh.

        Its relative error is a few eps, of float32 points too, for κ ≤ 0. For κ > 0 digits are lost
        near pairs of opposite points.
        """
        k = self.curvature
        apart = torch.linalg.vector_norm(x - y, dim=-1, keepdim=True)
        s = apart * (exact_gap(x, k) * exact_gap(y, k)).rsqrt()
        return (2 * s * curvature.asin_ratio(k * s.square(), k)).squeeze(-1)

    @upcast
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v·λₓ/λ_y: parallel along the lines from `x` to the origin and from there to `y`.

        It keeps inner products, and differs from `parallel_transport` by a rotation of about the
        area between the two ways.
        """
        return v * (gap(y, self.curvature) / self._measured(x))

    @upcast
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """gyr[y, -x]v·λₓ/λ_y."""
        k = self.curvature
        gap_x, gap_y = exact_gap(x, k), exact_gap(y, k)
        return curvature.gyrate(x, y, v, k, gap_x, gap_y) * (gap_y / gap_x)

    @override
    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return self.transport(x, y, m)

    @upcast
    def project(self, a: Tensor) -> Tensor:
        """Nearest point within the rim, to which what is too long is scaled."""
        self._need_real(a)
        wide = a.to(linalg.sums_exactly(a))  # in which squares of large entries are finite
        return curvature.clip(wide, self.curvature, a.dtype).to(a.dtype)

    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """How far the point is outside of the ball of κ < 0, boundary included; else 0."""
        beyond = torch.linalg.vector_norm(x, dim=-1) - curvature.radius(self.curvature)
        return beyond.clamp(min=0)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        self._check_vectors(shape, 1)

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n."""
        return shape[-1]

    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Normal around the origin, at distances of about 1/√|κ| (1 for κ = 0).

        There is no uniform distribution on an unbounded space.
        """
        self.check_shape(shape)
        a = torch.randn(*shape, generator=generator, dtype=dtype, device=device)
        return self.exp0(a * (curvature.unit(self.curvature) / (2 * shape[-1] ** 0.5)))

    @override
    def random_tangent(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal in the metric at `x`."""
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return noise * (gap(x, self.curvature) / 2)

    @override
    def _measure(self, x: Tensor) -> Tensor:
        return gap(x, self.curvature)

    # --- what layers call ---

    @upcast
    def exp0(self, u: Tensor) -> Tensor:
        """exp(0, u): tan(√κ‖u‖)·u/(√κ‖u‖); `u` in coordinates, half as long as in the metric."""
        k = self.curvature
        return curvature.clip(u * curvature.tan_ratio(k * squares(u), k), k)

    @upcast
    def log0(self, y: Tensor) -> Tensor:
        """Inverse of `exp0`: atan(√κ‖y‖)·y/(√κ‖y‖)."""
        k = self.curvature
        g = exact_gap(y, k)
        return y * (curvature.asin_ratio(k * squares(y) / g, k) * g.rsqrt())

    @upcast
    def mobius_add(self, x: Tensor, y: Tensor) -> Tensor:
        """x ⊕ y, the translation that takes the origin to `x`, of `y`; kept off the boundary."""
        k = self.curvature
        return curvature.mobius_add(x, y, k, exact_gap(x, k), exact_gap(y, k))

    def mobius_scalar_mul(self, r: float | Tensor, x: Tensor) -> Tensor:
        """r ⊗ x = exp0(r·log0(x)); `r` broadcasts to `x`."""
        return self.exp0(r * self.log0(x))

    def mobius_matvec(self, M: Tensor, x: Tensor) -> Tensor:
        """M ⊗ x = exp0(M·log0(x)), of `(*, m, n)` matrices and `(*, n)` points: `(*, m)`.

        The linear map of a hyperbolic layer (Ganea et al. 2018, §3.2); batches broadcast.
        """
        return self.exp0((M @ self.log0(x).unsqueeze(-1)).squeeze(-1))

    @upcast
    def gyration(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """gyr[x, y]v = -(x ⊕ y) ⊕ (x ⊕ (y ⊕ v)), a rotation of `v`."""
        k = self.curvature
        return curvature.gyrate(-y, x, v, k, exact_gap(y, k), exact_gap(x, k))

    @upcast
    def dist_to_hyperplane(self, x: Tensor, p: Tensor, a: Tensor, signed: bool = False) -> Tensor:
        """Distance of `x` from the geodesic hyperplane through `p` that is normal to `a`.

        asin_κ(2⟨d, a⟩/((1 + κ‖d‖²)‖a‖)), d = -p ⊕ x (Ganea et al. 2018, theorem 5). The length of
        `a` does not matter. With `signed`, positive on the side to which `a` points.
        """
        k = self.curvature
        distance = curvature.dist_to_hyperplane(
            x, p, a, k, exact_gap(x, k), exact_gap(p, k)
        ).squeeze(-1)
        return distance if signed else distance.abs()

    def wrapped_normal(
        self,
        mean: Tensor,
        std: float | Tensor = 1.0,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Samples around `mean`, one for each: exp(mean, v), v ~ N(0, std²) in its tangent space.

        v is drawn at the origin and carried to `mean` in parallel (Nagano et al. 2019). `std`
        broadcasts to `mean`: a number for each direction, or for each point as `(*, 1)`.
        Differentiable in both.
        """
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return self.exp(mean, std * noise * (gap(mean, self.curvature) / 2))
