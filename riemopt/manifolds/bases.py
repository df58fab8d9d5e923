"""What all quotients of `Stiefel` have in common: their points are stored as orthonormal bases."""

from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import add_product, gram
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.shortened_steps import ShortenedSteps
from riemopt.manifolds.stiefel import Stiefel

_STIEFEL = Stiefel("polar")


class Bases(ShortenedSteps):
    """Matrices with orthonormal columns (rows, if wide), of which several stand for one point.

    All XQ with Q in a group of rotations do: the metric is the ambient one on horizontal vectors.
    Implementations supply `proj_tangent`, `invariants`, the shapes and `dim`.
    """

    event_ndim = 2
    tangents_may_be_inexact = True

    @property
    @override
    def has_constant_norm(self) -> bool:
        return True

    @property
    @override
    def total_space(self) -> Manifold:
        return _STIEFEL

    @override
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """P(H - U·sym(XᴴG)), of a loss that is the same for all bases of a point."""
        return self.proj_tangent(x, add_product(h, u, linalg.sym(gram(x, g)), -1))

    @override
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """To the nearest basis to X + t·U."""
        return _STIEFEL.curve_with_fraction(x, u, t)

    @override
    def project(self, a: Tensor) -> Tensor:
        """The nearest basis; not unique where A is rank-deficient."""
        return _STIEFEL.project(a)

    @override
    def violation(self, x: Tensor) -> Tensor:
        """max |XᴴX - I| of each matrix."""
        return _STIEFEL.violation(x)

    @override
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic of `Stiefel` in the Euclidean metric, which stays horizontal.

        By the exponential of a 2p×2p matrix, which synchronises on an accelerator.
        """
        return _STIEFEL.exp(x, u)
