"""Symmetric (Hermitian) matrices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import override

from riemopt.linalg import sym
from riemopt.manifolds.linear import LinearSubspace


@final
@dataclass(frozen=True, repr=False)
class Symmetric(LinearSubspace):
    """{X : Xᴴ = X}, `(*batch, n, n)`; complex matrices are Hermitian.

    Dimension: n(n+1)/2; n² if complex.

    Metric: the ambient one; a linear subspace, in which Adam is elementwise, as torch's.

    Step: x + u; the stored matrix is symmetric bit for bit after it.

    Cost: a pass over the matrix and its transpose.

    For: quadratic forms, Hamiltonians, undirected couplings, layers that are gradients.

    Not for: matrices that are to be positive definite, too (`SPD`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Symmetric
        >>> Symmetric().project(torch.tensor([[1.0, 2.0], [4.0, 3.0]]))
        tensor([[1., 3.],
                [3., 3.]])
    """

    event_ndim = 2

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The symmetric part (u + uᴴ)/2."""
        return sym(u)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        self._check_square(shape)

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n(n+1)/2, or n² for Hermitian matrices."""
        n = shape[-1]
        return n * n if is_complex else n * (n + 1) // 2
