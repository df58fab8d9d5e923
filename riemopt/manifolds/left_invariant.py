"""Groups of matrices in the metric that is the same at X and at YX."""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, product, upcast
from riemopt.manifolds.shortened_steps import ShortenedSteps


class LeftInvariant(ShortenedSteps):
    """⟨U, V⟩ = tr AᵀB of U = XA and V = XB. Implementations supply the set and its gradient."""

    event_ndim = 2
    distorts_lengths = True

    def _within(self, x: Tensor) -> Tensor:
        """A matrix of positive determinant, scaled into the group."""
        return x

    @override
    @upcast
    @exact_products
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """tr AᵀB with A = X⁻¹U and B = X⁻¹V."""
        A = linalg.left_divide_by(x, u)
        B = A if u is v else linalg.left_divide_by(x, v)
        return super().inner(x, A, B, keepdim=keepdim)

    @override
    @upcast
    @exact_products
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """YX⁻¹V, the left translation, which keeps lengths."""
        return product(y, linalg.left_divide_by(x, v))

    @override
    def after_move(self, x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return self.transport(x, y, m)

    @override
    @exact_products
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """X(I + A + ½(A² + AᵀA - AAᵀ)) with t·U = XA, within the group; and the part taken.

        A long step is cut; one that would end where rounding could change the sign of the
        determinant is not taken.
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        X, U = x.to(wide), (t * u).to(wide)
        y, taken = linalg.geodesic_step(X, linalg.left_divide_by(X, U))
        y = self._within(y).to(x.dtype)
        y, taken = linalg.taken_where(linalg.is_well_conditioned(y.to(wide)), y, x, taken)
        return y.contiguous(), taken

    @override
    def round_point(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """X rounded; where det X > 0 would be lost, with singular values raised by eps·‖X‖."""
        if x.dtype == dtype:
            return x.contiguous()
        safe = linalg.is_well_conditioned(x.to(dtype).to(x.dtype))[..., None, None]
        raised = linalg.raise_singular_values(x, torch.finfo(dtype).eps)
        return torch.where(safe, x, self._within(raised)).to(dtype).contiguous()

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        self._check_square(shape)

    @override
    @upcast
    @exact_products
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """X·exp(Aᵀ)·exp(A - Aᵀ) with A = X⁻¹U; synchronises on an accelerator."""
        A = linalg.left_divide_by(x, u)
        stretch = product(x, linalg.matrix_exp(A.mT))
        return self._within(product(stretch, linalg.matrix_exp(A - A.mT))).contiguous()
