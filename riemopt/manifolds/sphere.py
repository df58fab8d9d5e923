"""The sphere: vectors, or slices of any shape, of fixed norm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.linalg import host_readable, upcast
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.slices import Slices


@final
@dataclass(frozen=True, init=False, repr=False)
class Sphere(Slices):
    """{x : ‖x‖ = radius}. Each slice along `dim` is one point; `dim` is the manifold's `n`-1.

        Sphere()                    each row of a (k, n) tensor has norm 1
        Sphere(dim=0)               each column
        Sphere(dim=(-3, -2, -1))    each filter of a convolution kernel (out, in, kh, kw)
        Sphere(dim=None)            the whole tensor is one point

    Args:
        dim: dimension or dimensions of one point; None for all of them.
        radius: the norm, positive.

    The step is x⁺ = r(x + u)/‖x + u‖ (Absil et al. 2008, example 4.1.1), a second-order retraction;
    an `lr` times a Riemannian gradient of norm 1 moves by about `lr` units of length. Complex
    vectors form the real sphere of twice the dimension.
    """

    slice_dims: tuple[int, ...] | None
    radius: float

    def __init__(self, dim: int | Sequence[int] | None = -1, radius: float = 1.0) -> None:
        if not (radius > 0 and math.isfinite(radius)):
            raise ValueError(f"Sphere needs a positive, finite radius; got {radius!r}.")
        self._set_dims(dim)
        object.__setattr__(self, "radius", float(radius))

    def __repr__(self) -> str:
        return self._describe(*[f"radius={self.radius}"] * (self.radius != 1))

    def with_dims_from_end(self, ndim: int) -> Manifold:
        """With `dim` counted from the end."""
        return Sphere(self.event_dims(ndim), self.radius)

    def _norm(self, a: Tensor) -> Tensor:
        return torch.linalg.vector_norm(a, dim=self.event_dims(a.ndim), keepdim=True)

    @property
    def has_constant_norm(self) -> bool:
        """Yes."""
        return True

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """u - x⟨x, u⟩/r²."""
        cosine = self.inner(x, x, u, keepdim=True)
        if torch.compiler.is_compiling():
            # ‖x‖² for r² costs nothing in a loop over x. On CPUs inductor of torch 2.13 keeps the
            # result in memory for this one read more, without which it raises KeyError where two
            # of its loops write into arguments (pytorch #196570).
            squared = self.inner(x, x, x, keepdim=True).clamp(min=1e-6 * self.radius**2)
            return u - x * (cosine / squared)  # of an x that was set to zero: u
        return torch.addcmul(u, x, cosine, value=-1 / self.radius**2)

    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """As any manifold's, in fewer passes over memory where rounding allows it.

        ‖grad‖² = ‖g‖² - ⟨x, g⟩²/r² holds on the sphere and cancels where g is nearly normal; that
        is looked at where reading a value is free.
        """
        if not host_readable(x):
            return super().carry_mean(x, m, g, decay)
        cosine = self.inner(x, x, g, keepdim=True)
        whole = linalg.squared_norm(g, self.event_dims(x.ndim))
        squared = torch.addcmul(whole, cosine, cosine, value=-1 / self.radius**2)
        if not linalg.is_resolved(squared, whole):
            return super().carry_mean(x, m, g, decay)
        cosine = linalg.average(cosine, self.inner(x, x, m, keepdim=True), decay)
        mean = linalg.average(g, m, decay)
        return mean.addcmul_(x, cosine, value=-1 / self.radius**2), squared

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """r(x + u)/‖x + u‖."""
        return self.curve(x, u, 1.0)

    @upcast
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """r(x + t·u)/‖x + t·u‖."""
        if torch.compiler.is_compiling():
            return self._compiled_curve(x, u, t)
        y = linalg.add_scaled(x, u, t)
        if host_readable(y) and y.numel():
            norm = self._norm(y)
            # ‖x + u‖ ≥ ‖x‖: it only can overflow, or be zero where x was no point.
            if norm.amin().item() > 0 and norm.amax().item() < math.inf:
                scale = self.radius / norm
                return (y * scale if y.requires_grad else y.mul_(scale)).contiguous()
        return self.project(y)

    def _compiled_curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """`curve` by sums that the loop which makes `u` can find, instead of a pass of their own.

        A step whose square cannot be represented is not taken.
        """
        xx, xu, uu = (self.inner(x, a, b, keepdim=True) for a, b in ((x, x), (x, u), (u, u)))
        squared = xx + 2 * t * xu + t * t * uu
        taken = squared < math.inf
        least = torch.finfo(squared.dtype).tiny  # a zero vector stays one
        scale = self.radius * torch.where(taken, squared, xx).clamp(min=least).rsqrt()
        return (scale * x + torch.where(taken, scale * t, 0) * u).contiguous()

    @upcast
    def project(self, a: Tensor) -> Tensor:
        """r·a/‖a‖; a zero vector goes to the point whose entries are all equal."""
        dims = self.event_dims(a.ndim)
        # Scaled first: the square of a large or tiny entry is not representable.
        largest = a.abs().amax(dims, keepdim=True) if a.numel() else self._norm(a)
        zero = largest == 0
        scaled = torch.where(zero, torch.ones_like(a), a / torch.where(zero, 1, largest))
        return (scaled * (self.radius / self._norm(scaled))).contiguous()

    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """|‖x‖ - r| of each point."""
        dims = self.event_dims(x.ndim)
        return (torch.linalg.vector_norm(x, dim=dims) - self.radius).abs()

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """N - 1 for n entries a point (2n - 1 if complex)."""
        n = math.prod(shape[d] for d in self.event_dims(len(shape)))
        return (2 * n if is_complex else n) - 1

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """cos(‖u‖/r)·x + sinc(‖u‖/r)·u: the great circle."""
        angle = self.norm(x, u, keepdim=True) / self.radius
        return torch.cos(angle) * x + torch.sinc(angle / math.pi) * u

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Inverse of `exp` for y ≠ -x: proj_tangent(x, y - x)/sinc(θ), θ the angle of x and y."""
        angle = self._angle(x, y, keepdim=True)
        return self.proj_tangent(x, y - x) / torch.sinc(angle / math.pi)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """2r·atan2(‖x - y‖, ‖x + y‖): exact to rounding at every angle, unlike r·acos⟨x, y⟩."""
        return self.radius * self._angle(x, y)

    def _angle(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        dims = self.event_dims(x.ndim)
        apart = torch.linalg.vector_norm(x - y, dim=dims, keepdim=keepdim)
        return 2 * torch.atan2(apart, torch.linalg.vector_norm(x + y, dim=dims, keepdim=keepdim))
