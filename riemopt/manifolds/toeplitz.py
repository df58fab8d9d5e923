"""Matrices that are constant along diagonals: Toeplitz and circulant ones.

A projection averages each diagonal. Diagonals become columns by a shear: with n zeros after each
row, a row is n + p long, and read again in rows of n + p - 1 each is moved by one against the last.
No index tensor, no scatter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt.linalg import upcast
from riemopt.manifolds.linear import LinearSubspace


@final
@dataclass(frozen=True, repr=False)
class Toeplitz(LinearSubspace):
    """{X : X[i, j] = d[j-i]}, `(*batch, n, p)`: constant along each diagonal.

    Dimension: n + p - 1.

    Metric: the ambient one; a linear subspace. The gradient of a diagonal's number is the mean over
    it, and Adam is elementwise: torch's Adam on these numbers.

    Step: x + u; diagonals are constant bit for bit after it.

    Cost: three passes over twice the matrix.

    For: filters as matrices, relative positions, stationary covariances.

    Not for: large matrices that are only multiplied with: store the n + p - 1 numbers and convolve.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Toeplitz
        >>> Toeplitz().project(torch.tensor([[1.0, 2.0], [5.0, 3.0]]))  # the mean of each diagonal
        tensor([[2., 2.],
                [5., 2.]])
    """

    event_ndim = 2

    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The mean over each diagonal, exact where it is constant: d + mean(u - d), d its first."""
        n, p = u.shape[-2:]
        d = _first_entries(u)
        return _matrix(d + _sums(u - _matrix(d, n, p)) / _lengths(n, p, u), n, p)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        if len(shape) < 2 or 0 in shape[-2:]:
            self._reject(shape, "matrices (*batch, n, p) with n ≥ 1 and p ≥ 1")

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n + p - 1, or twice that if complex."""
        return (shape[-2] + shape[-1] - 1) * (2 if is_complex else 1)


@final
@dataclass(frozen=True, repr=False)
class Circulant(LinearSubspace):
    """{X : X[i, j] = c[(j-i) mod n]}, `(*batch, n, n)`: each row is the one above, rotated.

    Dimension: n.

    Metric: the ambient one; a linear subspace, as `Toeplitz`.

    Step: x + u; rows are equal bit for bit, but for their rotation, after it.

    Cost: that of `Toeplitz`.

    For: cyclic filters: the product with X is a cyclic correlation with c.

    Not for: large matrices that are only multiplied with: store c and use the FFT.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Circulant
        >>> Circulant().project(torch.tensor([[1.0, 2.0], [6.0, 3.0]]))
        tensor([[2., 4.],
                [4., 2.]])
    """

    event_ndim = 2

    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The mean over each diagonal and the one that continues it, exact as in `Toeplitz`."""
        n, c = u.shape[-1], u[..., 0, :]
        sums = _sums(u - _circulant(c))
        # With a zero in front the order is j - i = -n, …, n-1: both halves by (j - i) mod n.
        halves = torch.cat([u.new_zeros(1).expand(*u.shape[:-2], 1), sums], -1)
        return _circulant(c + halves.unflatten(-1, (2, n)).sum(-2) / n)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        self._check_square(shape)

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n, or 2n if complex."""
        return shape[-1] * (2 if is_complex else 1)


# --- diagonals (*, n+p-1) in the order j - i = 1-n, …, p-1 -----------------------------------


def _sums(a: Tensor) -> Tensor:
    """`(*, n, p)`: the sum over each diagonal."""
    n, p = a.shape[-2:]
    if n > p:  # the shear takes n + p numbers for each row
        return _sums(a.mT).flip(-1)
    padded = torch.cat([a.flip(-2), a.new_zeros(n).expand(*a.shape[:-1], n)], -1)
    return padded.flatten(-2)[..., :-n].unflatten(-1, (n, n + p - 1)).sum(-2)


def _lengths(n: int, p: int, like: Tensor) -> Tensor:
    """How many entries each diagonal has."""
    from_start = torch.arange(1, n + p, device=like.device, dtype=like.real.dtype)
    return torch.minimum(from_start, n + p - from_start).clamp(max=min(n, p))


def _first_entries(a: Tensor) -> Tensor:
    """Those of the first column, from below, and of the first row."""
    return torch.cat([a[..., 1:, 0].flip(-1), a[..., 0, :]], -1)


def _matrix(diagonals: Tensor, n: int, p: int) -> Tensor:
    """The Toeplitz matrix `(*, n, p)`."""
    return diagonals.unfold(-1, p, 1).flip(-2)


def _circulant(c: Tensor) -> Tensor:
    """The circulant matrix `(*, n, n)` whose first row is `c`."""
    return _matrix(torch.cat([c[..., 1:], c], -1), c.shape[-1], c.shape[-1])
