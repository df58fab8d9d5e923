"""Flag manifolds: nested subspaces, stored as one matrix with orthonormal columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import add_product, gram
from riemopt.manifolds.bases import Bases


@final
@dataclass(frozen=True, init=False, repr=False)
class Flag(Bases):
    """Nested subspaces V₁ ⊂ V₂ ⊂ … ⊂ Vₖ of n-dimensional space, `(*batch, n, p)`.

        Flag(1, 2)      in ℝⁿ: a line, and a space of three dimensions around it, (n, 3)

    Args:
        sizes: of the blocks of columns: the first `sizes[0]` span V₁, the first `sizes[0] +
            sizes[1]` V₂, and so on. Their sum is p.

    Stored is a matrix X with orthonormal columns, or rows where n < p, as in `Grassmann`, which is
    the flag of one block. All that differ by a rotation within each block are one point; a loss
    must be the same for all. Tangent vectors are horizontal: the diagonal blocks of XᴴU are zero,
    and XᴴU is skew-Hermitian.

    Dimension: np - p(p+1)/2 - Σ s(s-1)/2 for blocks of s columns: that of `Stiefel` less those of
    the blocks' rotations.

    Metric: the ambient one on horizontal vectors. An `lr` times a Riemannian gradient with entries
    of size 1 moves entries by about `lr`.

    Step: that of `Stiefel` (Ye, Wong & Lim 2022, in another metric).

    Cost: that of `Stiefel`.

    For: components in the order of their weight, of which some are as heavy as others: nested
    principal components, multiresolution subspaces.

    Not for: one subspace (`Grassmann`), nor where each column matters (`Stiefel`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Flag
        >>> flag, X = Flag(1, 2), torch.eye(5, 3)
        >>> flag.dim(X.shape)
        8
        >>> bool(flag.violation(flag.retract(X, flag.random_tangent(X))) < 1e-6)
        True
    """

    sizes: tuple[int, ...]

    def __init__(self, *sizes: int) -> None:
        if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"Flag needs sizes of blocks, such as Flag(1, 2); got {sizes!r}.")
        object.__setattr__(self, "sizes", tuple(sizes))

    def __repr__(self) -> str:
        return f"Flag({', '.join(map(str, self.sizes))})"

    def _blocks(self) -> list[slice]:
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        return [slice(end - size, end) for size, end in zip(self.sizes, ends, strict=True)]

    @override
    def invariants(self, x: Tensor) -> Tensor:
        """Σ i·XᵢXᵢᴴ over the blocks Xᵢ, n×n: its eigenspaces are the blocks."""
        X = x.mH if linalg.is_wide(x) else x
        order = [X.real.new_full((size,), i) for i, size in enumerate(self.sizes, 1)]
        return (X * torch.cat(order)) @ X.mH

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U - X·S, where S is sym(XᴴU), and XᴴU itself in the diagonal blocks."""
        XU = gram(x, u)
        S = linalg.sym(XU)
        for block in self._blocks():
            S[..., block, block] = XU[..., block, block]
        return add_product(u, x, S, -1)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        """Two or more dimensions, p the sum of the sizes; more than one point."""
        p = sum(self.sizes)
        if len(shape) < 2 or min(shape[-2:]) != p:
            self._reject(shape, f"matrices (*batch, n, {p}) or (*batch, {p}, n) with n ≥ {p}")
        if shape[-1] == shape[-2] == self.sizes[0]:
            self._reject(shape, "more than one block for square matrices, or p < n")

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """That of `Stiefel` less Σ s(s-1)/2 over the sizes, or Σ s² if complex."""
        turns = sum(s * s if is_complex else s * (s - 1) // 2 for s in self.sizes)
        return self.total_space.dim(shape, is_complex=is_complex) - turns
