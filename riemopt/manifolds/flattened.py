"""A tensor with more than two dimensions seen as a matrix: convolution kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from riemopt.manifolds.base import Manifold


@final
@dataclass(frozen=True, repr=False)
class Flattened(Manifold):
    """Points `(*batch, d₀, d₁, …, dₖ)` that are points of `base` as the matrices (d₀, d₁⋯dₖ).

        constrain(conv, "weight", Flattened(Stiefel()))    # (out, in, kh, kw) as (out, in·kh·kw)

    Args:
        base: a manifold of matrices.
        event_ndim: dimensions of one point: 4 for a 2-d convolution, 3 for 1-d, 5 for 3-d.

    The first dimension is against all others: of a transposed convolution, which torch stores as
    (in, out, kh, kw), this is the matrix (in, out·kh·kw). The groups of a grouped convolution are
    not told apart. Orthonormality of the matrix is not orthogonality of the convolution as a map.
    """

    dims_are_explicit = True

    base: Manifold
    event_ndim: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.base, Manifold) or self.base.event_dims(3) != (-2, -1):
            hint = f"; write {self.base.__name__}()" if isinstance(self.base, type) else ""
            raise ValueError(f"Flattened needs a manifold of matrices; got {self.base!r}{hint}.")
        if self.event_ndim < 2:
            raise ValueError(f"Flattened needs event_ndim ≥ 2; got {self.event_ndim!r}.")

    @property
    def is_constraint(self) -> bool:
        """As the base."""
        return self.base.is_constraint

    @property
    def allows_elementwise_scaling(self) -> bool:
        """As the base."""
        return self.base.allows_elementwise_scaling

    @property
    def has_constant_norm(self) -> bool:
        """As the base."""
        return self.base.has_constant_norm

    def _flat(self, x: Tensor) -> Tensor:
        return x.flatten(1 - self.event_ndim) if self.event_ndim > 2 else x

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The base's projection."""
        return self.base.proj_tangent(self._flat(x), self._flat(u)).view_as(x)

    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """The base's conversion."""
        return self.base.egrad2rgrad(self._flat(x), self._flat(g)).view_as(x)

    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """The base's inner product."""
        product = self.base.inner(self._flat(x), self._flat(u), self._flat(v))
        return product.reshape(*product.shape, *[1] * self.event_ndim) if keepdim else product

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The base's transport."""
        return self.base.transport(self._flat(x), self._flat(y), self._flat(v)).view_as(v)

    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        """The base's retraction."""
        return self.base.retract(self._flat(x), self._flat(u)).view_as(x)

    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        """The base's curve."""
        return self.curve_with_fraction(x, u, t)[0]

    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The base's."""
        if isinstance(t, Tensor) and t.ndim == x.ndim:
            t = self._flat(t)
        y, taken = self.base.curve_with_fraction(self._flat(x), self._flat(u), t)
        return y.view_as(x), taken

    def carry(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor, weight: float | Tensor
    ) -> Tensor:
        """The base's momentum."""
        flat = self.base.carry(self._flat(x), self._flat(m), self._flat(g), decay, weight)
        return flat.view_as(x)

    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        """What the base keeps of it."""
        flat = self._flat(m)
        kept = self.base.after_move(self._flat(x), self._flat(y), flat)
        return m if kept is flat else kept.view_as(m)

    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """The base's running mean."""
        flat = self._flat(x)
        mean, squared = self.base.carry_mean(flat, self._flat(m), self._flat(g), decay)
        points = x.shape[: x.ndim - self.event_ndim]
        return mean.view_as(x), squared.reshape(*points, *[1] * self.event_ndim)

    def project(self, a: Tensor) -> Tensor:
        """The base's nearest point."""
        return self.base.project(self._flat(a)).view(a.shape)

    def violation(self, x: Tensor) -> Tensor:
        """The base's violation."""
        return self.base.violation(self._flat(x))

    def prepare(self, x: Tensor) -> None:
        """What the base needs."""
        self.base.prepare(x)

    def tolerance(self, x: Tensor) -> Tensor:
        """The base's."""
        return self.base.tolerance(self._flat(x))

    def check_shape(self, shape: Sequence[int]) -> None:
        """`event_ndim` dimensions or more, and what the base needs of the matrix."""
        if len(shape) < self.event_ndim:
            self._reject(
                shape, f"at least event_ndim={self.event_ndim} dimensions (3 for a 1-d convolution)"
            )
        try:
            self.base.check_shape(self._flat_shape(shape))
        except ValueError as error:
            seen = f"{self!r} flattens a tensor of shape {tuple(shape)}"
            raise ValueError(f"{seen}: {error}") from None

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """The base's dimension."""
        return self.base.dim(self._flat_shape(shape), is_complex=is_complex)

    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """The base's exponential."""
        return self.base.exp(self._flat(x), self._flat(u)).view_as(x)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The base's logarithm."""
        return self.base.log(self._flat(x), self._flat(y)).view_as(x)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """The base's distance."""
        return self.base.dist(self._flat(x), self._flat(y))

    def _flat_shape(self, shape: Sequence[int]) -> Sequence[int]:
        return self._flat(torch.empty(tuple(shape), device="meta")).shape
