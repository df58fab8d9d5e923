"""Rotations: square matrices with XᴴX = I and determinant 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import add_product, exact_products, product, upcast
from riemopt.manifolds.retractions import Cubic
from riemopt.manifolds.shortened_steps import ShortenedSteps


@final
@dataclass(frozen=True, repr=False)
class SpecialOrthogonal(ShortenedSteps):
    """{X : XᴴX = I, det X = 1}, `(*batch, n, n)`: SO(n), and SU(n) if complex.

    `SpecialUnitary` is another name of it. `Stiefel` of square matrices has reflections too: a
    weight that starts as one stays one, as no step changes the sign of a determinant. For
    quaternions see `riemopt.linalg.rotation_of_quaternion` and its inverse.

    Dimension: n(n-1)/2; n² - 1 if complex.

    Metric: the ambient one, which is that of both left and right translations (Edelman, Arias &
    Smith 1998, §2.2.1): a plane that turns by θ is a way of √2·θ, and geodesics are X·exp(tΩ). An
    `lr` times a Riemannian gradient with entries of size 1 moves entries by about `lr`.

    Step: that of `Stiefel`, with the same cut of very long ones; if complex the phase of the
    determinant is divided out, by an LU factorisation that does not wait.

    Cost: that of `Stiefel`; `project` and `violation` take a determinant besides.

    For: rotations of space, poses, recurrent layers that keep the norm, quantum gates.

    Not for: weights for which a reflection is as good, as those of a layer: `Stiefel` does without
    the determinant.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import SpecialOrthogonal
        >>> so, quarter = SpecialOrthogonal(), torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> so.geodesic(torch.eye(2), quarter, 0.5)  # half of the way: 45 degrees
        tensor([[ 0.7071, -0.7071],
                [ 0.7071,  0.7071]])
    """

    event_ndim = 2
    tangents_may_be_inexact = True

    @property
    @override
    def has_constant_norm(self) -> bool:
        return True

    @override
    def constant_norm(self, shape: Sequence[int]) -> float:
        return math.sqrt(shape[-1])

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """X·skew(XᴴU); if complex without the trace of skew(XᴴU)."""
        return linalg.tangent_to_rotations(x, u)

    @override
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """P(H - U·sym(XᴴG))."""
        return self.proj_tangent(x, add_product(h, u, linalg.sym(product(x.mH, g)), -1))

    @override
    def carry_mean(
        self, x: Tensor, m: Tensor, g: Tensor, decay: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        return linalg.mean_along_rotations(x, m, g, decay)

    @override
    @upcast
    @exact_products
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """To the nearest point to X(I + Ω + Ω²/2 + Ω³/8), where t·U = XΩ; of second order."""
        y, fraction = Cubic().curve_with_fraction(x, u, t)
        return linalg.without_phase(y).contiguous(), fraction

    @override
    def spectral_shape(self, shape: Sequence[int]) -> tuple[int, int] | None:
        return shape[-2], shape[-1]

    @override
    @upcast
    def spectral_direction(
        self, x: Tensor, m: Tensor, steps: int = 6, *, eps: float = 1e-7, exact: bool = True
    ) -> Tensor:
        """X·msign(skew(XᴴM)), which has the largest Re⟨M, Φ⟩; if complex without the trace."""
        if x.is_complex():
            return super().spectral_direction(x, m, steps, eps=eps)
        return linalg.steepest_along_columns(x, m, steps, eps)

    @override
    @upcast
    @exact_products
    def spectral_curve(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """cos(t)·X + sin(t)·U, made a rotation."""
        y, fraction = linalg.turn_with_fraction(x, u, t)
        return linalg.without_phase(y).contiguous(), fraction

    @override
    @upcast
    @exact_products
    def project(self, a: Tensor) -> Tensor:
        """The nearest rotation to A, by an SVD; not unique where the last two σ are equal."""
        return linalg.project_rotation(a).contiguous()

    @override
    @upcast
    @exact_products
    def violation(self, x: Tensor) -> Tensor:
        """max |XᴴX - I|, or |arg det X|/n where that is larger: π/n of a reflection."""
        defect = linalg.gram_defect(x).abs().amax((-2, -1))
        return torch.maximum(defect, linalg.phase_of_determinant(x).abs() / x.shape[-1])

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        self._check_square(shape)

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n(n-1)/2, or n² - 1 of complex matrices."""
        n = shape[-1]
        return n * n - 1 if is_complex else n * (n - 1) // 2

    @override
    @upcast
    @exact_products
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """X·exp(XᴴU); synchronises on an accelerator, but for real 2×2 and 3×3 matrices."""
        return product(x, linalg.exp_skew(linalg.twice_generator(x, u) / 2)).contiguous()

    @override
    @upcast
    @exact_products
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """X·log(XᴴY), by closed forms if real and 2×2 or 3×3, else by a dozen inverses.

        The shortest, where one is: where no plane turns by π (if complex: where the eigenvalues of
        log(XᴴY) span less than a full turn). At a half turn one of several if n ≤ 3, else NaN.
        """
        return product(x, self._log(x, y))

    @override
    @upcast
    @exact_products
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """‖log(x, y)‖: √2·(Σθ²)^½ for planes that turn by θ; at half turns too, if real.

        Of larger real matrices by singular values, 2·sin(θ/2) of X - Y and 2·cos(θ/2) of X + Y.
        """
        if x.is_complex() or x.shape[-1] <= 3:
            return self.norm(x, self._log(x, y))
        sine, cosine = torch.linalg.svdvals(x - y), torch.linalg.svdvals(x + y)
        return torch.linalg.vector_norm(2 * torch.atan2(sine, cosine.flip(-1)), dim=-1)

    @override
    @upcast
    @exact_products
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Y·e^(-W/2)·(XᴴV)·e^(W/2), with W = log(XᴴY)."""
        half = linalg.exp_skew(self._log(x, y) / 2)
        return product(y, product(half.mH, product(product(x.mH, v), half)))

    def _log(self, x: Tensor, y: Tensor) -> Tensor:
        """Of XᴴY, the sines from XᴴY - XᴴX: near points keep all digits of their difference."""
        sine = linalg.skew(product(x.mH, y - x))
        return linalg.log_rotation(sine, linalg.sym(product(x.mH, y)))


SpecialUnitary = SpecialOrthogonal
