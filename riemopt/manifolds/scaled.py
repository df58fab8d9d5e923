"""Multiples of the points of another manifold: an orthonormal weight with its gain in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import upcast
from riemopt.manifolds.base import Manifold, require_manifold

_LEAST = 1e-3
"""The scale c at which `project` puts what has no positive multiple nearby."""


@final
@dataclass(frozen=True, repr=False)
class Scaled(Manifold):
    """{c·x : x on `base`, c > 0}, the cone over a manifold whose points have one norm.

        constrain(layer, "weight", Scaled(Stiefel()))   # WᵀW = c²I, and c is learned with W
        constrain(layer, "weight", Scaled(Sphere()))    # rows of any norm but 0

    Args:
        base: a manifold with `has_constant_norm` and the ambient metric, and no quotient:
            `Stiefel()`, `Sphere()`, `SpecialOrthogonal()`.

    Raises:
        ValueError: `base` is another one.

    `constrain` starts from the weight's present size, c = ⟨W, x⟩/‖x‖² for the nearest x. Weight
    decay acts on c.

    Dimension: that of the base, and 1.

    Metric: the ambient one: `lr` times a gradient with entries of size 1 moves entries by about
    `lr`.

    Step: u = a·x + v, v tangent to the base, ends at c' times the base's retraction of x along
    v/(c + a), with c'² = (c + a)² + ‖v‖²/‖x‖²: of second order if the base's retraction is. Where a
    step would lead through 0, c + a is kept positive.

    Cost: that of the base, and a few passes over the entries.

    For: the gain of an orthonormal layer, rows of any norm but 0, similarity transforms.

    Not for: a gain that several weights share: that is a parameter of its own.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Scaled, Stiefel
        >>> manifold = Scaled(Stiefel())
        >>> X = manifold.project(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        >>> manifold.scale(X)
        tensor(2.)
    """

    base: Manifold

    def __post_init__(self) -> None:
        base = require_manifold(self.base, "Scaled: a manifold")
        if base.has_constant_norm and base.has_ambient_metric and base.total_space is None:
            return
        raise ValueError(
            "Scaled needs a manifold whose points have one norm, of the ambient metric and no "
            f"quotient, such as Stiefel() or Sphere(); got {base!r}."
        )

    @property
    @override
    def event_ndim(self) -> int:
        return self.base.event_ndim

    @override
    def event_dims(self, ndim: int) -> tuple[int, ...]:
        return self.base.event_dims(ndim)

    @property
    @override
    def dims_are_explicit(self) -> bool:
        return self.base.dims_are_explicit

    @property
    @override
    def margin(self) -> float:
        return _LEAST

    @override
    def fitted_to(self, x: Tensor) -> Manifold:
        base = self.base.fitted_to(x)
        return self if base is self.base else Scaled(base)

    @override
    def with_dims_from_end(self, ndim: int) -> Manifold:
        return Scaled(self.base.with_dims_from_end(ndim))

    @override
    def prepare(self, x: Tensor) -> None:
        self.base.prepare(x)

    def scale(self, x: Tensor) -> Tensor:
        """The number c of each point; the batch's shape."""
        return linalg.norm(x, self.event_dims(x.ndim)) / self.base.constant_norm(x.shape)

    def _split(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """`(c, x)`, with c of the dimensions of y."""
        norm = linalg.norm(y, self.event_dims(y.ndim), keepdim=True)
        c = norm / self.base.constant_norm(y.shape)
        return c, y / torch.where(c > 0, c, 1)

    def _radial(self, x: Tensor, u: Tensor) -> Tensor:
        """⟨x, u⟩/‖x‖² of points x of the base."""
        return self.inner(x, x, u, keepdim=True) / self.base.constant_norm(x.shape) ** 2

    @override
    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The tangent part for the base at x/c, and x⟨x, u⟩/‖x‖²."""
        _, direction = self._split(x)
        along = self._radial(direction, u) * direction
        return self.base.proj_tangent(direction, u) + along

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return self.curve(x, u, 1.0)

    @override
    @upcast
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        c, direction = self._split(x)
        step = t * u
        a = self._radial(direction, step)
        v = step - a * direction
        # 1 + z, and for z < -½ the function -¼/z that is positive and joins it smoothly.
        z = a / c
        radial = c * torch.where(z > -0.5, 1 + z, -0.25 / torch.where(z > -0.5, -1, z))
        across = self.base.norm(direction, v, keepdim=True) / self.base.constant_norm(x.shape)
        return (torch.hypot(radial, across) * self.base.retract(direction, v / radial)).contiguous()

    @override
    def spectral_shape(self, shape: Sequence[int]) -> tuple[int, int] | None:
        return self.base.spectral_shape(shape)

    @override
    @upcast
    def spectral_direction(
        self, x: Tensor, m: Tensor, steps: int = 6, *, eps: float = 1e-7, exact: bool = True
    ) -> Tensor:
        """That of the base at x/c, and x/c itself with the sign of ⟨m, x⟩: c moves by 1, too."""
        _, direction = self._split(x)
        along = torch.sgn(self._radial(direction, m)) * direction
        return self.base.spectral_direction(direction, m, steps, eps=eps, exact=exact) + along

    @override
    @upcast
    def project(self, a: Tensor) -> Tensor:
        """The nearest point x of the base times c = ⟨a, x⟩/‖x‖², at least 1e-3."""
        x = self.base.project(a)
        return (self._radial(x, a).clamp(min=_LEAST) * x).contiguous()

    @override
    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """That of x/c on the base, of which 0 is no point."""
        return self.base.violation(self._split(x)[1])

    @override
    def tolerance(self, x: Tensor) -> Tensor:
        return self.base.tolerance(self._split(x)[1])

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        self.base.check_shape(shape)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """One more than that of the base."""
        return self.base.dim(shape, is_complex=is_complex) + 1

    @override
    @upcast
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """A straight line in the plane of polar coordinates ‖y‖ and of the angle along the base."""
        c, direction = self._split(x)
        a = self._radial(direction, u)
        v = u - a * direction
        norm = self.base.constant_norm(x.shape)
        squared = self.inner(x, v, v, keepdim=True) / norm**2
        radial = c + a
        w = v * linalg.atan2_over_root(squared, radial)
        return ((radial.square() + squared).sqrt() * self.base.exp(direction, w)).contiguous()

    @override
    @upcast
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Inverse of `exp`; `NotImplementedError` if the base has no `log`.

        Of y = c'x' along w, the logarithm of the base from x/c to x', whose angle is θ:
        c'(cos θ·x/c + sinc θ·w) - x, as y - x and what is small of the second order.
        """
        _, direction = self._split(x)
        c, other = self._split(y)
        w = self.base.log(direction, other)
        s = self.inner(x, w, w, keepdim=True) / self.base.constant_norm(x.shape) ** 2
        bent = linalg.sinc_of_root(s) * w - s * linalg.versine_of_root(s) * direction
        return y - x + c * (bent - (other - direction))

    @override
    @upcast
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The base's, of what is across the plane of x and w = log; in that plane vectors stay."""
        (_, direction), (_, other) = self._split(x), self._split(y)
        w = self.base.log(direction, other)
        squared_norm = self.base.constant_norm(x.shape) ** 2
        s, b = (self.inner(x, w, a, keepdim=True) / squared_norm for a in (w, v))
        a = self._radial(direction, v)
        sinc = linalg.sinc_of_root(s)
        across = v - a * direction - (b * linalg.versine_of_root(s) + a * sinc) * w
        radial = a * linalg.cos_of_root(s) + b * sinc
        return self.base.parallel_transport(direction, other, across) + radial * other

    @override
    @upcast
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The length of `log`, by the law of cosines; `NotImplementedError` if the base has none.

        Its square is ‖x - y‖², which is exact where points are near, and of the two directions, of
        which the base knows the distance r·θ, 4cc'(r² sin²(θ/2) - ‖x/c - y/c'‖²/4).
        """
        (c, direction), (end, other) = self._split(x), self._split(y)
        r = self.base.constant_norm(x.shape)
        chord = direction - other
        square = (r * torch.sin(self.base.dist(direction, other) / (2 * r))).square()
        more = (square - self.inner(x, chord, chord) / 4).clamp(min=0)
        across = 4 * c.reshape(more.shape) * end.reshape(more.shape) * more
        total = self.inner(x, x - y, x - y) + across
        return torch.where(total > 0, total, 1).sqrt() * (total > 0)
