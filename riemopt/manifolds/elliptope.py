"""Correlation matrices of a given rank, stored as a factor with rows of length 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from typing_extensions import override

from riemopt.manifolds.base import Manifold
from riemopt.manifolds.factors import Factors
from riemopt.manifolds.sphere import Sphere

_ROWS = Sphere()


@final
@dataclass(frozen=True, repr=False)
class Elliptope(Factors):
    """{X = YYᴴ : Xᵢᵢ = 1, rank k}, the n×n correlation matrices of rank k.

        Elliptope(3)        factors (*batch, n, 3) with n ≥ 3

    Args:
        rank: k, the number of columns of Y.

    Stored is the factor Y, `(*batch, n, k)`, whose rows have length 1; YQ with orthogonal (unitary)
    Q stands for the same X, and a loss must be the same for all. Tangent vectors are horizontal:
    tangent to each row's sphere, and YᴴU is Hermitian.

    Dimension: n(k-1) - k(k-1)/2; 2nk - n - k² if complex.

    Metric: the ambient one on horizontal vectors (Journée, Bach, Absil & Sepulchre 2010). An `lr`
    times a Riemannian gradient with rows of length 1 turns rows by about `lr` radians.

    Step: normalises the rows of Y + U, of second order; geodesics turn each row along its great
    circle. Nothing breaks where a step ends at a lower rank or an optimum has one, as that of
    max-cut often has; a start there is moved (`project`).

    Cost: that of `PSDFixedRank`.

    For: max-cut and synchronisation of phases by the method of Burer & Monteiro (with
    k(k+1)/2 > n, for almost all costs, without spurious minima: Boumal, Voroninski & Bandeira
    2016); correlations of few factors (Grubišić & Pietersz 2007).

    Not for: rows that matter themselves (`Sphere`); full rank with a metric that keeps it
    (`Correlation`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Elliptope
        >>> Y = Elliptope(2).project(torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]))
        >>> (Y @ Y.mT).diagonal()
        tensor([1., 1., 1.])
    """

    rank: int

    @property
    @override
    def total_space(self) -> Manifold:
        return _ROWS

    @property
    @override
    def has_constant_norm(self) -> bool:
        return True

    @override
    def constant_norm(self, shape: Sequence[int]) -> float:
        return float(shape[-2] ** 0.5)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n(k-1) - k(k-1)/2, or 2nk - n - k² of Hermitian matrices."""
        n, k = shape[-2:]
        return n * (k * (2 if is_complex else 1) - 1) - self._turns(is_complex)
