"""Skew-symmetric (skew-Hermitian) matrices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import override

from riemopt.linalg import skew
from riemopt.manifolds.linear import LinearSubspace


@final
@dataclass(frozen=True, repr=False)
class SkewSymmetric(LinearSubspace):
    """{X : Xᴴ = -X}, `(*batch, n, n)`; complex matrices are skew-Hermitian.

    Dimension: n(n-1)/2; n² if complex.

    Metric: the ambient one; a linear subspace, in which Adam is elementwise, as torch's.

    Step: x + u; the stored matrix is skew bit for bit after it.

    Cost: a pass over the matrix and its transpose.

    For: generators of rotations, dynamics that keep energy, antisymmetric scores.

    Not for: rotations themselves (`SpecialOrthogonal`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import SkewSymmetric
        >>> SkewSymmetric().project(torch.tensor([[1.0, 2.0], [4.0, 3.0]]))
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """

    event_ndim = 2

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The skew part (u - uᴴ)/2."""
        return skew(u)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        self._check_square(shape)

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n(n-1)/2, or n² for skew-Hermitian matrices."""
        n = shape[-1]
        return n * n if is_complex else n * (n - 1) // 2
