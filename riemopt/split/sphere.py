"""Spheres whose points are cut: two sums of single numbers a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from riemopt import linalg
from riemopt.manifolds import Sphere
from riemopt.split.base import SplitGeometry, split


class SplitSphere(SplitGeometry):
    """`Sphere`: an overlap is Re⟨a, b⟩, one number a point, and there is no `finish`.

    The formulas are those of `riemopt.manifolds.Sphere`.
    """

    needs_finish = False

    def __init__(self, manifold: Sphere, shape: Sequence[int]) -> None:
        super().__init__(manifold, shape)
        self.radius = manifold.radius
        self.dims = manifold.event_dims(len(shape))

    def overlap(self, a: Tensor, b: Tensor) -> Tensor:
        """Re⟨a, b⟩ of the own entries."""
        product = (a.conj() * b).real if a.is_complex() else a * b
        return product.sum(self.dims, keepdim=True)

    def project(self, x: Tensor, v: Tensor, XV: Tensor) -> Tensor:
        """v - x⟨x, v⟩/r²."""
        return torch.addcmul(v, x, XV.to(x.dtype), value=-1 / self.radius**2)

    def gradient(self, x: Tensor, g: Tensor, XG: Tensor) -> Tensor:
        """The projection: the metric is the ambient one."""
        return self.project(x, g, XG)

    def squared(self, x: Tensor, grad: Tensor, XG: Tensor) -> Tensor:
        """Σ|grad|² of the own entries."""
        return self.overlap(grad, grad)

    def curve(
        self, x: Tensor, u: Tensor, t: float | Tensor, XX: Tensor, XU: Tensor, UU: Tensor
    ) -> Tensor:
        """r(x + t·u)/‖x + t·u‖ with ‖x + t·u‖² = ‖x‖² + 2t⟨x, u⟩ + t²‖u‖².

        A zero vector goes to the point whose entries are all equal.
        """
        norm = (XX + 2 * t * XU + t**2 * UU).clamp(min=0).sqrt()
        zero = norm == 0
        y = linalg.add_scaled(x, u, t) * (self.radius / torch.where(zero, 1, norm))
        return torch.where(zero, self.radius / self.entries**0.5, y)


@split.register
def _(manifold: Sphere, cut: frozenset[int], shape: Sequence[int]) -> SplitGeometry:
    return SplitSphere(manifold, shape)
