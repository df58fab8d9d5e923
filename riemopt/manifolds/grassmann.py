"""The Grassmann manifold: subspaces, each stored as a matrix with orthonormal columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, gram, right_multiply, upcast
from riemopt.manifolds.bases import Bases


@final
@dataclass(frozen=True, repr=False)
class Grassmann(Bases):
    """The p-dimensional subspaces of n-dimensional space, `(*batch, n, p)`.

    Stored is a basis, a matrix X with orthonormal columns, or rows where n < p: a wide matrix
    stands for its transpose, as in `Stiefel`. All bases XQ of a subspace are one point; a loss must
    be the same for all, as tr(XᴴAX) is. Tangent vectors are horizontal: XᴴU = 0.

    Dimension: p(n - p).

    Metric: the ambient one on horizontal vectors: the length of a way is (Σθ²)^½ for principal
    angles θ (Edelman, Arias & Smith 1998, §2.5 and §4.3), and a geodesic
    XV·cos(tθ)·Vᴴ + Q·sin(tθ)·Vᴴ with U = QθVᴴ (theorem 2.3). An `lr` times a Riemannian gradient
    with entries of size 1 moves entries by about `lr`.

    Step: that of `Stiefel`, the nearest basis to X + U, of second order, with the same cut of very
    long ones.

    Cost: that of `Stiefel`.

    For: principal components, subspace tracking, low-rank factors whose other factor is free.

    Not for: columns that matter themselves, as in the weight of a layer (`Stiefel`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Grassmann
        >>> X = torch.eye(4, 2)
        >>> Grassmann().dist(X, X[:, [1, 0]])  # another basis of the same plane
        tensor(0.)
        >>> Grassmann().dim(X.shape)
        4
    """

    @override
    def invariants(self, x: Tensor) -> Tensor:
        """XXᴴ, the n×n projector on the subspace."""
        return x.mH @ x if linalg.is_wide(x) else x @ x.mH

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """U - XXᴴU."""
        return linalg.across_columns(x, u)

    @override
    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        return linalg.mean_across_columns(x, m, g, decay)

    @override
    def spectral_shape(self, shape: Sequence[int]) -> tuple[int, int] | None:
        return shape[-2], shape[-1]

    @override
    @upcast
    @exact_products
    def spectral_curve(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """cos(t)·X + sin(t)·U, made orthonormal; of msign(M - XXᴴM), a geodesic."""
        y, fraction = linalg.turn_with_fraction(x, u, t)
        return y.contiguous(), fraction

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        """Two or more dimensions; the last two not empty, and not equal."""
        if len(shape) < 2 or 0 in shape[-2:]:
            self._reject(shape, "matrices (*batch, n, p) with n ≥ 1 and p ≥ 1")
        if shape[-1] == shape[-2]:
            self._reject(
                shape,
                "matrices that are not square (all bases of the whole space are one point; for "
                "orthogonal matrices take Stiefel() or SpecialOrthogonal())",
            )

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension p(n - p), or twice as much of complex subspaces."""
        p, n = sorted(shape[-2:])
        return p * (n - p) * (2 if is_complex else 1)

    @override
    @upcast
    @exact_products
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """QθVᴴ, with Q·sin(θ)·Vᴴ the part of Y* across X and V·cos(θ)·Vᴴ = XᴴY*.

        Y* is the basis of Y nearest to X (Bendokat, Zimmermann & Absil 2024, algorithm 5.3).
        Unique where no principal angle is π/2. Costs a dozen inverses of p×p matrices.
        """
        X, Y = (x.mH, y.mH) if linalg.is_wide(x) else (x, y)
        aligned = Y @ linalg.unitary_factor(Y.mH @ X)
        apart = aligned - X  # near bases keep all digits of their difference
        across = apart - X @ (X.mH @ apart)
        found = linalg.angles_of(across, linalg.sym(X.mH @ aligned))
        return found.mH if linalg.is_wide(x) else found

    @override
    @upcast
    @exact_products
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """(Σθ²)^½ with θ = atan2(sin θ, cos θ): accurate at all angles, unlike acos.

        The sines are the singular values of Y - XXᴴY, the cosines those of XᴴY: synchronises on an
        accelerator.
        """
        across = self.proj_tangent(x, y - x)
        sine, cosine = torch.linalg.svdvals(across), torch.linalg.svdvals(gram(x, y))
        return torch.linalg.vector_norm(torch.atan2(sine, cosine.flip(-1)), dim=-1)

    @override
    @upcast
    @exact_products
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """V - (XV·sin(θ) + Q(I - cos θ))QᴴV, in the basis Y (Edelman et al. 1998, theorem 2.4)."""
        u = self.log(x, y)
        half, cosine = linalg.sine_and_cosine(gram(u, u) / 4)
        UV = gram(u, v)
        moved = v - right_multiply(x, half @ cosine @ UV) - right_multiply(u, half @ half @ UV / 2)
        return right_multiply(moved, linalg.unitary_factor(gram(x, y)))
