"""Symplectic bases: matrices that keep the form of Hamiltonian mechanics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, upcast
from riemopt.manifolds.shortened_steps import ShortenedSteps

_NEAR = 0.9
"""‖XᵀJX - J‖ of a tensor that `project` takes for a neighbour of the surface: below 1."""
_TOWARDS, _REFINED = 8, 3
"""Of such a tensor: Newton's steps to the surface, and steps along it to the nearest point."""


@final
@dataclass(frozen=True, repr=False)
class SymplecticStiefel(ShortenedSteps):
    """{X : XᵀJX = J}, `(*batch, 2n, 2p)` with p ≤ n, real; J = [[0, I], [-I, 0]] of either size.

    The symplectic group if square. The set is closed but not bounded: its points have norm √2p or
    more, and that only if their columns are orthonormal.

    Dimension: 4np - p(2p-1).

    Metric: the ambient one (Gao, Son, Absil & Stykel, *Geometry of the symplectic Stiefel manifold
    endowed with the Euclidean metric*, 2021). An `lr` times a Riemannian gradient with entries of
    size 1 moves entries by about `lr`.

    Step: the Cayley transform, of first order, by one 2p×2p solve (Bendokat & Zimmermann 2021,
    proposition 5.2), and one Newton step for XᵀJX = J. The transform has poles: with A = JᵀXᵀJU and
    H = U - XA a step is cut where ‖A‖ + (‖JᵀHᵀJH‖/2)^½ is above 1, or where it is longer than X.

    Cost: the projection solves the Lyapunov equation XᵀXΩ + ΩXᵀX = -2 skew(XᵀJU) for U - JXΩ, by
    the eigenvalues of XᵀX. Off a CPU these are found by Jacobi's method, 6p·(5 + log₂ 2p) products
    of 2p×2p matrices that wait for no device.

    `project` lands by Newton's method and goes on to the nearest point from what is near the
    surface (‖XᵀJX - J‖ ≤ .9); other tensors, zeros too, go to the nearest matrix that is symplectic
    and has orthonormal columns, the best start there is. That may be up to 2‖a‖ farther than the
    nearest point.

    For: reduced models of Hamiltonian systems, symplectic eigenvalues, optical and beam-line
    design.

    Not for: columns that are to be orthonormal, too: that is the unitary group; keep P + iQ on
    `Stiefel`.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import SymplecticStiefel
        >>> manifold = SymplecticStiefel()
        >>> X = manifold.random_point(6, 4, dtype=torch.float64)
        >>> bool(manifold.violation(X) < 1e-12), manifold.dim(X.shape)
        (True, 18)
    """

    event_ndim = 2

    @property
    @override
    def margin(self) -> float:
        return 2.0

    @override
    @upcast
    @exact_products
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U - JXΩ, whose normal space is {JXΩ : Ω = -Ωᵀ}."""
        return linalg.tangent_to_symplectic(x, u)

    @override
    @exact_products
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The Cayley transform (I - SJ/2)⁻¹(I + SJ/2)X with SJX = t·U; a long step is cut."""
        wide = torch.promote_types(x.dtype, torch.float32)
        X = x.to(wide)
        y, taken = _move(X, (t * u).to(wide))
        y, taken = linalg.taken_where(y.isfinite().all(-1).all(-1), y, X, taken)
        return y.to(x.dtype).contiguous(), taken

    @override
    @upcast
    @exact_products
    def project(self, a: Tensor) -> Tensor:
        """A point by A, in two ways: see the class. By an SVD; synchronises on an accelerator."""
        self._check_real(a)
        defect = torch.linalg.vector_norm(linalg.symplectic_defect(a), dim=(-2, -1))
        near = (defect <= _NEAR)[..., None, None]
        a = torch.where(near, a, linalg.orthosymplectic(a))
        y = a
        for _ in range(_TOWARDS):
            y = linalg.towards_symplectic(y)
        for _ in range(_REFINED):
            y, _ = _move(y, linalg.tangent_to_symplectic(y, a - y))
        return y.contiguous()

    @override
    @upcast
    @exact_products
    def violation(self, x: Tensor) -> Tensor:
        """max |XᵀJX - J|/s of each matrix, s = ‖X‖/√2p ≥ 1: nearly the distance to the surface."""
        size = torch.linalg.vector_norm(x, dim=(-2, -1)) / x.shape[-1] ** 0.5
        return linalg.symplectic_defect(x).abs().amax((-2, -1)) / size.clamp(min=1)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        sizes = shape[-2:]
        if len(sizes) < 2 or sizes[0] % 2 or sizes[1] % 2 or not 0 < sizes[1] <= sizes[0]:
            self._reject(shape, "matrices (*batch, 2n, 2p) of even sizes with 1 ≤ p ≤ n")

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension 4np - p(2p-1)."""
        rows, columns = shape[-2:]
        return rows * columns - columns * (columns - 1) // 2

    @override
    def random_point(
        self,
        *shape: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A step of half its norm, in a random direction, from one with orthonormal columns."""
        self.check_shape(shape)
        noise = torch.randn(2, *shape, generator=generator, dtype=dtype, device=device)
        x = self.project(noise[0])
        return self.retract(x, self.proj_tangent(x, noise[1]) / (2 * shape[-2] ** 0.5))


def _move(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Along U and back to the surface, where rounding, or X, was off; and the part taken."""
    y, taken = linalg.cayley_step(x, u)
    return linalg.towards_symplectic(y), taken
