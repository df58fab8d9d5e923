"""Spheres whose points are cut: two sums of single numbers a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.distributed.geometry import ShardedGeometry, sharded_geometry
from riemopt.manifolds import Sphere


class ShardedSphere(ShardedGeometry):
    """`Sphere`: what is summed are inner products Re⟨a, b⟩, and there is no `finish`.

    The formulas are those of `riemopt.manifolds.Sphere`.
    """

    needs_finish = False

    def __init__(self, manifold: Sphere, shape: Sequence[int]) -> None:
        super().__init__(manifold, shape)
        self.radius = manifold.radius
        self.dims = manifold.event_dims(len(shape))

    def _inner(self, a: Tensor, b: Tensor) -> Tensor:
        return linalg.inner(a, b, self.dims)

    def gradient_summand(self, x: Tensor, g: Tensor) -> Tensor:
        """⟨x, g⟩."""
        return self._inner(x, g)

    def gradient(self, x: Tensor, g: Tensor, XG: Tensor) -> Tensor:
        """The projection: the metric is the ambient one."""
        return self.project(x, g, XG)

    def squared_summand(self, x: Tensor, grad: Tensor, XG: Tensor) -> Tensor:
        """⟨grad, grad⟩."""
        return self._inner(grad, grad)

    def projection_summand(self, x: Tensor, v: Tensor) -> Tensor:
        """⟨x, v⟩."""
        return self._inner(x, v)

    def project(self, x: Tensor, v: Tensor, XV: Tensor) -> Tensor:
        """v - x⟨x, v⟩/r²."""
        return torch.addcmul(v, x, XV.to(x.dtype), value=-1 / self.radius**2)

    def curve_summands(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """⟨x, x⟩, ⟨x, u⟩, ⟨u, u⟩."""
        return self._inner(x, x), self._inner(x, u), self._inner(u, u)

    def curve(
        self, x: Tensor, u: Tensor, t: float | Tensor, XX: Tensor, XU: Tensor, UU: Tensor
    ) -> Tensor:
        """r(x + t·u)/‖x + t·u‖ with ‖x + t·u‖² = ⟨x, x⟩ + 2t⟨x, u⟩ + t²⟨u, u⟩.

        A zero vector goes to the point whose entries are all equal.
        """
        norm = (XX + 2 * t * XU + t**2 * UU).clamp(min=0).sqrt()
        zero = norm == 0
        y = linalg.add_scaled(x, u, t) * (self.radius / torch.where(zero, 1, norm))
        return torch.where(zero, self.radius / self.entries**0.5, y)


@sharded_geometry.register
def _(manifold: Sphere, cut: frozenset[int], shape: Sequence[int]) -> ShardedGeometry:
    return ShardedSphere(manifold, shape)
