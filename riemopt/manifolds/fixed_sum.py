"""Vectors, or slices of any shape, whose entries have a given sum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from riemopt.linalg import upcast
from riemopt.manifolds.base import Manifold
from riemopt.manifolds.linear import FlatSubspace


@final
@dataclass(frozen=True, init=False, repr=False)
class FixedSum(FlatSubspace):
    """{x : Σ xᵢ = total}. Each slice along `dim` is one point, as of `Sphere`.

        FixedSum()                    each row of a (k, n) tensor has sum 0
        FixedSum(dim=(-3, -2, -1))    each filter of a convolution kernel: no response to a constant
        FixedSum(dim=0, total=1.0)    columns of weights that add up to 1, of any sign

    Args:
        dim: dimension or dimensions of one point; None for all of them.
        total: the sum, finite.

    The tangent part of a gradient is g - mean(g); the nearest point to `a`, a - mean(a) + total/n.
    An `lr` times a gradient with entries of size 1 moves entries by about `lr`. Linear for total 0,
    but the elementwise m/√v of Adam leaves the subspace, so that each point has one second moment.
    For row and column sums at once use `AffineSubspace.of`.
    """

    # `dim` is also the name of a method of the contract, so the option is kept under another one.
    slice_dims: tuple[int, ...] | None
    total: float

    def __init__(self, dim: int | Sequence[int] | None = -1, total: float = 0.0) -> None:
        if not math.isfinite(total):
            raise ValueError(f"FixedSum needs a finite total; got {total!r}.")
        dims = (dim,) if isinstance(dim, int) else None if dim is None else tuple(dim)
        if dims is not None and (not dims or len(set(dims)) != len(dims)):
            raise ValueError(f"FixedSum needs one or more distinct dimensions; got dim={dim!r}.")
        object.__setattr__(self, "slice_dims", dims)
        object.__setattr__(self, "total", float(total))

    def __repr__(self) -> str:
        dims = self.slice_dims
        written = dims[0] if dims is not None and len(dims) == 1 else dims
        options = [f"dim={written}"] * (written != -1) + [f"total={self.total}"] * (self.total != 0)
        return f"FixedSum({', '.join(options)})"

    @property
    def event_ndim(self) -> int:
        """Number of dimensions of one point; `AttributeError` for `dim=None`, which takes all."""
        if self.slice_dims is None:
            raise AttributeError("FixedSum(dim=None) takes all dimensions of the tensor given.")
        return len(self.slice_dims)

    def event_dims(self, ndim: int) -> tuple[int, ...]:
        """The dimensions of one point, counted from the end, in ascending order."""
        if self.slice_dims is None:
            return tuple(range(-ndim, 0))
        return tuple(sorted(d if d < 0 else d - ndim for d in self.slice_dims))

    def anchored(self, ndim: int) -> Manifold:
        """With `dim` counted from the end."""
        return FixedSum(self.event_dims(ndim), self.total)

    @upcast
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U - mean(u)."""
        return u - u.mean(self.event_dims(u.ndim), keepdim=True)

    @upcast
    def project(self, a: Tensor) -> Tensor:
        """A - mean(a) + total/n; twice, as rounding a large mean leaves an error of its size."""
        return self._land(self._land(a))

    def _land(self, a: Tensor) -> Tensor:
        return (a - self._excess(a, keepdim=True)).contiguous()

    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """|mean(x) - total/n|: how far each entry is from that of the nearest point."""
        return self._excess(x).abs()

    def _excess(self, a: Tensor, *, keepdim: bool = False) -> Tensor:
        dims = self.event_dims(a.ndim)
        return a.mean(dims, keepdim=keepdim) - self.total / math.prod([a.shape[d] for d in dims])

    def check_shape(self, shape: Sequence[int]) -> None:
        """At least the dimensions named in `dim`, none of them empty."""
        ndim = len(shape)
        dims = self.slice_dims if self.slice_dims is not None else tuple(range(ndim))
        if not dims or any(not -ndim <= d < ndim for d in dims):
            self._reject(shape, f"a tensor that has dimension {self.slice_dims or '0 or more'}")
        if len({d % ndim for d in dims}) != len(dims):
            self._reject(shape, "distinct dimensions")
        if any(shape[d] == 0 for d in dims):
            self._reject(shape, "at least one entry along each dimension of a point")

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """N - 1 for n entries a point (2n - 2 if complex)."""
        n = math.prod(shape[d] for d in self.event_dims(len(shape)))
        return (n - 1) * (2 if is_complex else 1)
