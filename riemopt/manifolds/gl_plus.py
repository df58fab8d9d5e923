"""Matrices with a positive determinant."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, product, upcast
from riemopt.manifolds.left_invariant import LeftInvariant
from riemopt.manifolds.spd import SPD
from riemopt.manifolds.special_orthogonal import SpecialOrthogonal


@final
@dataclass(frozen=True, repr=False)
class GLPlus(LeftInvariant):
    """{X : det X > 0}, `(*batch, n, n)`, real: the invertible linear maps that keep orientation.

    Weight decay pulls towards 0, which is infinitely far.

    Dimension: n², an open set.

    Metric: tr AᵀB of U = XA and V = XB, the same at X and at YX; Riemannian gradient XXᵀG. So a
    step moves X by a part of itself, and singular matrices are infinitely far. Geodesics
    X·exp(Aᵀ)·exp(A - Aᵀ) (Andruchow, Larotonda, Recht & Varela 2014). `lr` is relative: one times a
    gradient with tr AᵀA = 1 changes X by about that part of itself. Train with `RiemannianSGD`, or
    with Adam with `second_moment="point"`: a gradient that is divided entry by entry may point
    uphill.

    Step: X(I + A + ½(A² + AᵀA - AAᵀ)), which agrees with the geodesic to second order, and is cut
    where ‖AᵀA‖^½ is above ½; so it keeps the sign of the determinant. Near the boundary arithmetic
    no longer knows the sign: a step that would end where ‖X‖·‖X⁻¹‖ is above √n/(4·eps), 10⁶ in
    float32, is not taken.

    Cost: two LU factorisations, an inverse and ten products of n×n matrices a step; nothing waits
    for a device.

    For: normalizing flows, independent component analysis, affine registration.

    Not for: a weight that may as well become singular, which needs no manifold; volume-preserving
    maps (`SpecialLinear`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import GLPlus
        >>> Y = GLPlus().retract(torch.eye(2), torch.tensor([[-5.0, 0.0], [0.0, 1.0]]))
        >>> bool(torch.linalg.det(Y) > 0)
        True
    """

    @property
    @override
    def margin(self) -> float:
        return 0.01

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U itself."""
        return u

    @override
    @upcast
    @exact_products
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """XXᵀG."""
        return product(x, product(x.mT, g))

    @override
    @upcast
    @exact_products
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """X(XᵀH + ½(MAᵀ + AᵀM + AN - NA)) with M = XᵀG and N = M + Mᵀ, by the acceleration."""
        bend = linalg.bend_of(linalg.left_divide_by(x, u), product(x.mT, g))
        return product(x, product(x.mT, h) + bend / 2)

    @override
    def project(self, a: Tensor) -> Tensor:
        """A, if rounding leaves no doubt that det A > 0; zeros go to the identity.

        Of others the singular values are raised to .01·‖A‖/√n, the smallest one of a negative
        determinant after its sign is changed. By an SVD, which waits and has no derivative.
        """
        self._check_real(a)
        wide = torch.promote_types(a.dtype, torch.float32)
        return self.round_point(_nearest(a.to(wide), self.margin), a.dtype)

    @override
    @upcast
    def violation(self, x: Tensor) -> Tensor:
        """0, or infinite where det X is not positive."""
        sign = torch.linalg.slogdet(x).sign
        return torch.where(sign > 0, torch.zeros_like(sign), torch.inf)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n²."""
        return shape[-1] ** 2

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A uniform rotation times a point of `SPD`: of condition numbers up to about 9."""
        self.check_shape(shape)
        R, P = (
            m.random_point(*shape, generator=generator, dtype=dtype, device=device)
            for m in (SpecialOrthogonal(), SPD())
        )
        return self.project(_product(R, P))


@upcast
def _product(a: Tensor, b: Tensor) -> Tensor:
    return product(a, b)


def _nearest(A: Tensor, margin: float) -> Tensor:
    size = A.detach().abs().amax((-2, -1), keepdim=True)
    zero = size == 0
    inside = linalg.is_well_conditioned(A)[..., None, None]
    U, s, Vh = linalg.proper_svd(A / torch.where(zero, 1, size))  # whose squares are finite
    least = margin / A.shape[-1] ** 0.5 * torch.linalg.vector_norm(s, dim=-1, keepdim=True)
    other = product(U * torch.maximum(s, least).unsqueeze(-2), Vh) * size
    return torch.where(inside, A, torch.where(zero, linalg.identity_like(A), other))
