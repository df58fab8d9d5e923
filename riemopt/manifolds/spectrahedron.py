"""Density matrices of a given rank, stored as a factor of norm 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, upcast
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.factors import Factors
from riemopt.manifolds.sphere import Sphere

_SPHERE = Sphere(dim=(-2, -1))


@final
@dataclass(frozen=True, repr=False)
class Spectrahedron(Factors):
    """{X = YYᴴ : tr X = 1, rank k}, the n×n positive semidefinite matrices of trace 1 and rank k.

        Spectrahedron(2)    factors (*batch, n, 2) with n ≥ 2

    Args:
        rank: k, the number of columns of Y.

    Stored is the factor Y, `(*batch, n, k)`, of Frobenius norm 1; YQ with orthogonal (unitary) Q
    stands for the same X, and a loss must be the same for all. Tangent vectors are horizontal:
    Re⟨Y, U⟩ = 0, and YᴴU is Hermitian.

    Dimension: nk - 1 - k(k-1)/2; 2nk - 1 - k² if complex.

    Metric: the ambient one on horizontal vectors; the distance is the angle of Bures,
    arccos ‖YᴴZ‖_*, and geodesics are great circles of the sphere of all Y. An `lr` times a
    Riemannian gradient of norm 1 turns Y by about `lr` radians.

    Step: (Y + U)/‖Y + U‖, of second order. Nothing breaks where a step ends at a lower rank or an
    optimum has one; a start there is moved (`project`).

    Cost: that of `PSDFixedRank`.

    For: density matrices of quantum states (complex; pure ones for k = 1), sparse principal
    components by semidefinite relaxation (Journée, Bach, Absil & Sepulchre 2010).

    Not for: a Y that matters itself (`Sphere(dim=(-2, -1))`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Spectrahedron
        >>> Y = Spectrahedron(2).random_point(4, 2)
        >>> (Y @ Y.mT).trace()
        tensor(1.0000)
    """

    rank: int

    @property
    @override
    def total_space(self) -> Manifold:
        return _SPHERE

    @property
    @override
    def has_constant_norm(self) -> bool:
        return True

    @override
    def constant_norm(self, shape: Sequence[int]) -> float:
        return 1.0

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension nk - 1 - k(k-1)/2, or 2nk - 1 - k² of Hermitian matrices."""
        n, k = shape[-2:]
        return n * k * (2 if is_complex else 1) - 1 - self._turns(is_complex)

    @override
    @upcast
    @exact_products
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """That of the sphere to the nearest YQ; unique where YᴴX is not singular.

        By an SVD, which synchronises on an accelerator.
        """
        apart = linalg.aligned_difference(x, y)
        a, b = (linalg.squared_norm(v, (-2, -1)) for v in (apart, x + (x + apart)))
        return linalg.angle_over_sine(a, b) * self.proj_tangent(x, apart)

    @override
    @upcast
    @exact_products
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """2·atan2(‖YQ - X‖, ‖YQ + X‖): to rounding at every angle. By an SVD."""
        apart = linalg.aligned_difference(x, y)
        return 2 * torch.atan2(self.norm(x, apart), self.norm(x, x + (x + apart)))
