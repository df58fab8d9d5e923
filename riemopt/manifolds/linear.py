"""What all flat manifolds have in common: one tangent space, and a step is an addition."""

from torch import Tensor

from riemopt import linalg
from riemopt.linalg import add_scaled, upcast
from riemopt.manifolds.base import Manifold


class FlatSubspace(Manifold):
    """An affine subspace of the ambient space: x₀ + V, with V the tangent space everywhere.

    Implementations supply `proj_tangent`, the projection on V, `project`, and the shapes.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import FixedSum, FlatSubspace
        >>> isinstance(FixedSum(), FlatSubspace)
        True
        >>> x, v = torch.tensor([0.5, 0.5]), torch.tensor([1.0, -1.0])
        >>> FixedSum(total=1.0).transport(x, x + v, v)  # the tangent space is the same everywhere
        tensor([ 1., -1.])
    """

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """The sum x + u, projected, so that rounding errors of x do not stay: the geodesic."""
        return self.curve(x, u, 1.0)

    @upcast
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """The sum x + t·u, projected likewise."""
        return self._land(add_scaled(x, u, t))

    def _land(self, a: Tensor) -> Tensor:
        """`project` of an `a` that is off the subspace by a rounding error."""
        return self.project(a)

    def violation(self, x: Tensor) -> Tensor:
        """max |x - project(x)| of each point."""
        dims = self.event_dims(x.ndim)
        exact = linalg.in_double(x, dims)
        return (exact - self.project(exact)).abs().amax(dims).to(x.real.dtype)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The vector v itself: the tangent space is the same everywhere."""
        return v

    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The vector v itself."""
        return v

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """The sum x + u."""
        return x + u

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The difference y - x."""
        return y - x

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """‖x - y‖ in the ambient norm."""
        return linalg.norm(x - y, self.event_dims(x.ndim))


class LinearSubspace(FlatSubspace):
    """A linear subspace in which Adam's elementwise quotient m/√v stays.

    That is so where entries are zero or tied to each other, as in symmetric or Toeplitz matrices: v
    repeats the pattern of m. It is not so of, say, the vectors whose sum is zero.

    Examples:
        >>> from riemopt.manifolds import FixedSum, LinearSubspace, Symmetric
        >>> isinstance(Symmetric(), LinearSubspace), isinstance(FixedSum(), LinearSubspace)
        (True, False)
    """

    allows_elementwise_scaling = True

    def project(self, a: Tensor) -> Tensor:
        """The orthogonal projection."""
        return self.proj_tangent(a, a).contiguous()
