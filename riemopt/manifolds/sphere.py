"""The sphere: vectors, or slices of any shape, of fixed norm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import upcast
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
        radius: the norm, positive; or "init" for the root mean square of the norms that the points
            of a weight have when `constrain` or `ManifoldParameter` is given it.

    Dimension: n - 1 for n entries a point. Complex vectors form the real sphere of dimension
    2n - 1.

    Metric: the ambient one. An `lr` times a Riemannian gradient of norm 1 moves by about `lr` units
    of length.

    Step: x⁺ = r(x + u)/‖x + u‖ (Absil et al. 2008, example 4.1.1), of second order.

    Cost: a few passes over the entries; nothing waits for a device.

    For: rows or filters of a fixed norm, prototypes and embeddings compared by their angle,
    directions, unit quaternions, states of norm 1.

    Not for: rows whose norm is learned, too: `Scaled(Sphere())`.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Sphere
        >>> x = Sphere().project(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        >>> x
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000]])
        >>> Sphere().dist(x[0], x[1])  # an angle
        tensor(0.6435)
        >>> Sphere(dim=None).dim((2, 2))  # all entries make one point
        3
    """

    slice_dims: tuple[int, ...] | None
    given_radius: float | Literal["init"]

    def __init__(
        self, dim: int | Sequence[int] | None = -1, radius: float | Literal["init"] = 1.0
    ) -> None:
        if radius != "init" and not (
            isinstance(radius, Real) and radius > 0 and math.isfinite(radius)
        ):
            raise ValueError(f"Sphere needs a positive, finite radius, or 'init'; got {radius!r}.")
        self._set_dims(dim)
        object.__setattr__(self, "given_radius", "init" if radius == "init" else float(radius))

    @property
    def radius(self) -> float:
        """The norm of each point; `ValueError` for "init", which has none before it is fitted."""
        if self.given_radius == "init":
            raise ValueError(
                f"{self!r} takes its radius from the weight that constrain or ManifoldParameter is "
                "given. In a parameter group write a number; of a tensor, fitted_to(tensor)."
            )
        return self.given_radius

    def __repr__(self) -> str:
        return self._describe(*[f"radius={self.given_radius!r}"] * (self.given_radius != 1))

    @override
    def along(self, dims: Sequence[int]) -> Manifold:
        return Sphere(dims, self.given_radius)

    @override
    def fitted_to(self, x: Tensor) -> Manifold:
        """With the root mean square of the norms of all points for radius="init".

        Raises:
            ValueError: that is 0, or not finite, or `x` has no values.
        """
        if self.given_radius != "init":
            return self
        self.check_shape(x.shape)
        if x.is_meta or not x.numel():
            raise ValueError(
                f"{self!r} needs values to take its radius from; got {x.device} "
                f"tensor of shape {tuple(x.shape)}. Write a number."
            )
        points = x.detach().to(torch.complex128 if x.is_complex() else torch.float64)
        norms = torch.linalg.vector_norm(points, dim=self.event_dims(x.ndim))
        radius = norms.square().mean().sqrt().item()
        if not (radius > 0 and math.isfinite(radius)):
            raise ValueError(f"{self!r} needs a weight that is finite and not 0.")
        return Sphere(self.slice_dims, radius)

    @override
    def prepare(self, x: Tensor) -> None:
        _ = self.radius  # raises

    @property
    @override
    def has_constant_norm(self) -> bool:
        return True

    @override
    def constant_norm(self, shape: Sequence[int]) -> float:
        return self.radius

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """u - x⟨x, u⟩/r²."""
        return linalg.tangent_to_sphere(x, u, self.event_dims(x.ndim), self.radius)

    @override
    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        return linalg.mean_along_sphere(x, m, g, decay, self.event_dims(x.ndim), self.radius)

    @override
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """P(h) - u⟨x, g⟩/r²."""
        return self.proj_tangent(x, h) - u * self.inner(x, x, g, keepdim=True) / self.radius**2

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """r(x + u)/‖x + u‖."""
        return self.curve(x, u, 1.0)

    @override
    @upcast
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """r(x + t·u)/‖x + t·u‖."""
        return linalg.move_and_normalise(x, u, t, self.event_dims(x.ndim), self.radius)

    @override
    def spectral_shape(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """Of matrices that are one point, and of one matrix whose rows or columns are points."""
        dims = set(self.event_dims(len(shape)))
        fits = dims == {-2, -1} or (len(shape) == 2 and dims < {-2, -1})
        return (shape[-2], shape[-1]) if fits else None

    @override
    @upcast
    def project(self, a: Tensor) -> Tensor:
        """r·a/‖a‖; a zero vector goes to the point whose entries are all equal."""
        return linalg.normalise(a, self.event_dims(a.ndim), self.radius)

    @override
    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """|‖x‖ - r| of each point."""
        dims = self.event_dims(x.ndim)
        exact = linalg.in_double(x, dims)
        return (torch.linalg.vector_norm(exact, dim=dims) - self.radius).abs().to(x.real.dtype)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n - 1 for n entries a point, 2n - 1 if complex."""
        n = math.prod(shape[d] for d in self.event_dims(len(shape)))
        return (2 * n if is_complex else n) - 1

    @override
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """cos(‖u‖/r)·x + sinc(‖u‖/r)·u: the great circle."""
        s = self.inner(x, u, u, keepdim=True) / self.radius**2
        return linalg.cos_of_root(s) * x + linalg.sinc_of_root(s) * u

    @override
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Inverse of `exp` for y ≠ -x: proj_tangent(x, y - x)·θ/sin θ, θ the angle of x and y."""
        apart, sum = x - y, x + y
        a, b = (self.inner(x, v, v, keepdim=True) for v in (apart, sum))
        return linalg.angle_over_sine(a, b) * self.proj_tangent(x, -apart)

    @override
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """2r·atan2(‖x - y‖, ‖x + y‖): exact to rounding at every angle, unlike r·acos⟨x, y⟩."""
        return 2 * self.radius * torch.atan2(self.norm(x, x - y), self.norm(x, x + y))

    @override
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """v - (x + y)·⟨y, v⟩/(r² + ⟨x, y⟩), for y ≠ -x."""
        along = self.inner(x, y, v, keepdim=True) / (
            self.radius**2 + self.inner(x, x, y, keepdim=True)
        )
        return v - (x + y) * along
