"""What all linear subspaces share: the tangent space is the manifold, and a step is an addition."""

import torch
from torch import Tensor

from riemopt.linalg import add_scaled
from riemopt.manifolds.base import Manifold


class LinearSubspace(Manifold):
    """A linear subspace of the ambient space. Implementations supply the projection and shapes.

    `is_linear` says in addition that the elementwise quotient of two of its members by a common
    pattern of weights stays in it, as Adam's m/√v needs: true of symmetric matrices, false of,
    say, the vectors whose sum is zero.
    """

    is_linear = True

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """X + U, projected so that a rounding error of X does not stay for good: the geodesic."""
        return self.curve(x, u, 1.0)

    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """X + t·U, projected likewise."""
        return self.project(add_scaled(x, u, t))

    def project(self, a: Tensor) -> Tensor:
        """The orthogonal projection of A."""
        return self.proj_tangent(a, a).contiguous()

    def violation(self, x: Tensor) -> Tensor:
        """max |X - project(X)| of each point."""
        return (x - self.proj_tangent(x, x)).abs().amax(self.event_dims(x.ndim))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """V itself: the tangent space is the same everywhere."""
        return v

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """X + U."""
        return x + u

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Y - X."""
        return y - x

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """‖X - Y‖ in the ambient norm."""
        return torch.linalg.vector_norm(x - y, dim=self.event_dims(x.ndim))
