"""Matrices of determinant 1: maps that keep volume and orientation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, product, upcast
from riemopt.manifolds.gl_plus import GLPlus
from riemopt.manifolds.left_invariant import LeftInvariant

_GL = GLPlus()


@final
@dataclass(frozen=True, repr=False)
class SpecialLinear(LeftInvariant):
    """SL(n): {X : det X = 1}, `(*batch, n, n)`, real.

    Dimension: n² - 1.

    Metric: that of `GLPlus`, tr AᵀB of U = XA and V = XB with traces 0, the same at X and at YX.
    Riemannian gradient X·dev(XᵀG), where dev(M) = M - tr M/n·I. Geodesics stay those of `GLPlus`,
    of which this is a factor: X·exp(Aᵀ)·exp(A - Aᵀ). The tangent space in the ambient product, for
    `proj_tangent`, is normal to X⁻ᵀ. `lr` is relative: one times a gradient with tr AᵀA = 1 changes
    X by about that part of itself. Train with `RiemannianSGD`, or with Adam with
    `second_moment="point"`, as on `GLPlus`.

    Step: that of `GLPlus`, with the same cut, divided by the n-th root of its determinant: of
    second order. The set is not bounded: a step that would end where ‖X‖·‖X⁻¹‖ is above
    √n/(4·eps) is not taken.

    Cost: three LU factorisations, two inverses and ten products of n×n matrices a step; nothing
    waits for a device.

    `project` starts from any tensor: the nearest point where |det A| ≤ 1, or det A a little more;
    from larger ones A/|det A|^(1/n), which has the condition number of A. Of a negative determinant
    the smallest singular value changes its sign. At most 2‖A‖ farther than the nearest point.

    For: homographies, volume-preserving flows and registration, unimodular lattices.

    Not for: maps of any volume (`GLPlus`); those that keep lengths, too (`SpecialOrthogonal`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import SpecialLinear
        >>> SpecialLinear().project(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
        tensor([[1., 0.],
                [0., 1.]])
    """

    @override
    def _within(self, x: Tensor) -> Tensor:
        return linalg.with_determinant_one(x)

    @property
    @override
    def margin(self) -> float:
        return 2.0

    @override
    @upcast
    @exact_products
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U - ⟨N, U⟩N/‖N‖² with N = X⁻ᵀ."""
        normal = torch.linalg.inv_ex(x)[0].mT
        normal = normal / torch.linalg.vector_norm(normal, dim=(-2, -1), keepdim=True)
        return u - linalg.inner(normal, u, (-2, -1)) * normal

    @override
    @upcast
    @exact_products
    def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:
        """X·dev(XᵀG)."""
        return product(x, linalg.without_trace(product(x.mT, g)))

    @override
    @upcast
    @exact_products
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """X·dev(XᵀH + ½(MAᵀ + AᵀM + AN - NA)) with M = XᵀG and N = M + Mᵀ; see `GLPlus`."""
        bend = linalg.bend_of(linalg.left_divide_by(x, u), product(x.mT, g))
        return product(x, linalg.without_trace(product(x.mT, h) + bend / 2))

    @override
    @exact_products
    def project(self, a: Tensor) -> Tensor:
        """The nearest point, or A/|det A|^(1/n): see the class. By an SVD; it synchronises."""
        self._check_real(a)
        wide = torch.promote_types(a.dtype, torch.float32)
        return self.round_point(linalg.nearest_of_determinant_one(a.to(wide)), a.dtype)

    @override
    @upcast
    @exact_products
    def violation(self, x: Tensor) -> Tensor:
        """|log det X|/‖X⁻¹‖, nearly the distance to the surface; infinite where det X ≤ 0."""
        sign, log = torch.linalg.slogdet(x)
        inverse = torch.linalg.vector_norm(torch.linalg.inv_ex(x)[0], dim=(-2, -1))
        return torch.where(sign > 0, log.abs() / inverse, torch.inf)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n² - 1."""
        return shape[-1] ** 2 - 1

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A random point of `GLPlus` over the root of its determinant."""
        x = _GL.random_point(*shape, generator=generator, dtype=dtype, device=device)
        return _scaled(x).contiguous()


@upcast
def _scaled(x: Tensor) -> Tensor:
    return linalg.with_determinant_one(x)
