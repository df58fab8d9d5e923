"""Vectors, or slices of any shape, whose entries have a given sum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import upcast
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.linear import FlatSubspace
from riemopt.manifolds.slices import Slices


@final
@dataclass(frozen=True, init=False, repr=False)
class FixedSum(Slices, FlatSubspace):
    """{x : Σ xᵢ = total}. Each slice along `dim` is one point, as in `Sphere`.

        FixedSum()                    each row of a (k, n) tensor has sum 0
        FixedSum(dim=(-3, -2, -1))    each filter of a convolution kernel: no response to a constant
        FixedSum(dim=0, total=1.0)    columns of weights that add up to 1, of any sign

    Args:
        dim: dimension or dimensions of one point; None for all of them.
        total: the sum, finite.

    Dimension: n - 1 for n entries a point.

    Metric: the ambient one. An `lr` times a gradient with entries of size 1 moves entries by about
    `lr`.

    Step: x + u. The tangent part of a gradient is g - mean(g); the nearest point to `a`,
    a - mean(a) + total/n. Linear for total 0, but the elementwise m/√v of Adam leaves the subspace,
    and is projected.

    Cost: two passes over the entries.

    For: centred rows or filters, logits without a common shift, weights of a mean.

    Not for: entries that are to be positive, too (`Simplex`); row and column sums at once
    (`AffineSubspace.of`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import FixedSum
        >>> FixedSum(total=1.0).project(torch.tensor([[1.0, 2.0, 4.0]])).sum(1)
        tensor([1.0000])
    """

    slice_dims: tuple[int, ...] | None
    total: float

    def __init__(self, dim: int | Sequence[int] | None = -1, total: float = 0.0) -> None:
        if not math.isfinite(total):
            raise ValueError(f"FixedSum needs a finite total; got {total!r}.")
        self._set_dims(dim)
        object.__setattr__(self, "total", float(total))

    def __repr__(self) -> str:
        return self._describe(*[f"total={self.total}"] * (self.total != 0))

    @override
    def along(self, dims: Sequence[int]) -> Manifold:
        return FixedSum(dims, self.total)

    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The entries u - mean(u)."""
        dims = self.event_dims(u.ndim)
        return u - linalg.total(u, dims, keepdim=True) / self._size(u)

    @upcast
    def project(self, a: Tensor) -> Tensor:
        """The entries a - mean(a) + total/n; twice, as rounding a large mean leaves an error."""
        return self._land(self._land(a))

    def _land(self, a: Tensor) -> Tensor:
        dims = self.event_dims(a.ndim)
        excess = self._excess(a, keepdim=True).to(a.dtype)
        return linalg.shift(a, excess, dims).contiguous()

    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """|mean(x) - total/n|: how far each entry is from that of the nearest point."""
        return self._excess(x).abs().to(x.real.dtype)

    def _excess(self, a: Tensor, *, keepdim: bool = False) -> Tensor:
        """Mean(a) - total/n, for long points in double precision."""
        dims, n = self.event_dims(a.ndim), self._size(a)
        return linalg.total(linalg.in_double(a, dims), dims, keepdim=keepdim) / n - self.total / n

    def _size(self, a: Tensor) -> int:
        return math.prod([a.shape[d] for d in self.event_dims(a.ndim)])

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n - 1 for n entries a point, 2n - 2 if complex."""
        n = math.prod(shape[d] for d in self.event_dims(len(shape)))
        return (n - 1) * (2 if is_complex else 1)
