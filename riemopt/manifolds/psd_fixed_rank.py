"""Positive semidefinite matrices of a given rank, stored as a factor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, upcast
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.euclidean import Euclidean
from riemopt.manifolds.factors import Factors

_EUCLIDEAN = Euclidean()


@final
@dataclass(frozen=True, repr=False)
class PSDFixedRank(Factors):
    """{X = YYᴴ : rank k}, the n×n positive semidefinite (Hermitian) matrices of rank k.

        PSDFixedRank(3)     factors (*batch, n, 3) with n ≥ 3

    Args:
        rank: k, the number of columns of Y.

    Stored is the factor Y, `(*batch, n, k)`; YQ with orthogonal (unitary) Q stands for the same X,
    and a loss must be the same for all, as a function of YYᴴ is. Tangent vectors are horizontal:
    YᴴU is Hermitian.

    Dimension: nk - k(k-1)/2; 2nk - k² if complex.

    Metric: the ambient one on horizontal vectors; its distance, the least ‖YQ - Z‖, is that of
    Bures and Wasserstein (Massart & Absil 2020). An `lr` times a Riemannian gradient with entries
    of size 1 moves entries by about `lr`.

    Step: Y + U; geodesics are straight. Not complete: matrices of lower rank are at a finite
    distance. Nothing breaks where a step ends at one or an optimum is one, but a start there is
    moved (`project`), as no gradient leads to a higher rank.

    Cost: a horizontal projection takes two n×k×k products and a k×k Lyapunov equation, at most 12
    inverses of k×k matrices, and does not wait for a device.

    For: low-rank kernels and covariances, distance matrices and positions from distances,
    semidefinite programs by the method of Burer & Monteiro (Journée, Bach, Absil & Sepulchre 2010).

    Not for: columns of Y that matter themselves; k = n where eigenvalues must stay positive
    (`SPD`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import PSDFixedRank
        >>> Y = torch.tensor([[1.0], [2.0]])
        >>> PSDFixedRank(1).dist(Y, -Y)  # they stand for one matrix
        tensor(0.)
    """

    rank: int

    @property
    @override
    def total_space(self) -> Manifold:
        return _EUCLIDEAN

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension nk - k(k-1)/2, or 2nk - k² of Hermitian matrices."""
        n, k = shape[-2:]
        return n * k * (2 if is_complex else 1) - self._turns(is_complex)

    @override
    @upcast
    @exact_products
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """YQ - X with the nearest YQ; unique where YᴴX is not singular. By an SVD, which waits."""
        return linalg.aligned_difference(x, y)

    @override
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """‖YQ - X‖: (tr XXᴴ + tr YYᴴ - 2‖YᴴX‖_*)^½ without its cancellation. By an SVD."""
        return self.norm(x, self.log(x, y))
