"""Rigid motions: a rotation and a translation, as one matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import exact_products, upcast
from riemopt.manifolds.shortened_steps import ShortenedSteps
from riemopt.manifolds.special_orthogonal import SpecialOrthogonal

_ROTATIONS = SpecialOrthogonal()


@final
@dataclass(frozen=True, repr=False)
class SpecialEuclidean(ShortenedSteps):
    """SE(n): {[[R, t], [0, 1]] : R a rotation}, `(*batch, n+1, n+1)`; the poses of rigid bodies.

    The product of matrices is that of motions: X takes the point p, written (p, 1), to Rp + t. R is
    of SU(n) if complex. Weight decay shrinks t.

    Dimension: n(n-1)/2 + n; n² - 1 + 2n if complex.

    Metric: the ambient one, ‖U‖² = ‖Ω‖² + ‖v‖² of a rotation RΩ and a translation v. It is that of
    the product of `SpecialOrthogonal` and ℝⁿ, and it is the same for X and for AX (Park 1995); a
    rotation by θ is a way of √2·θ, so choose the unit of length accordingly. Its geodesics, `exp`,
    turn R and move t along a line. The screw motions of the group are X·`group_exp`(A), for
    tangents XA. An `lr` times a Riemannian gradient with entries of size 1 moves entries by about
    `lr`.

    Step: that of `SpecialOrthogonal`, and t + v.

    Cost: that of `SpecialOrthogonal`.

    For: pose graphs, calibration, robot arms.

    Not for: rotation and translation that need different learning rates: keep them as two weights.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import SpecialEuclidean
        >>> se, X = SpecialEuclidean(), torch.eye(4)
        >>> Y = X.clone()
        >>> Y[:3, 3] = torch.tensor([0.0, 3.0, 4.0])  # moved, not turned
        >>> se.dist(X, Y), se.dim(X.shape)
        (tensor(5.), 6)
    """

    event_ndim = 2

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """R·skew(RᴴU) of the rotation; the last row is zero."""
        return _motion(_ROTATIONS.proj_tangent(_rotation(x), _rotation(u)), _shift(u), 0)

    @override
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """That of `SpecialOrthogonal`, and h itself of the translation."""
        rotations = (_rotation(a) for a in (x, g, h, u))
        return _motion(_ROTATIONS.ehess2rhess(*rotations), _shift(h), 0)

    @override
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """That of the rotation; the translation is taken whole."""
        u = t * u
        rotation, fraction = _ROTATIONS.curve_with_fraction(_rotation(x), _rotation(u), 1.0)
        return _motion(rotation, _shift(x) + _shift(u), 1), fraction

    @override
    def project(self, a: Tensor) -> Tensor:
        """The nearest rotation, by an SVD; the translation as it is."""
        return _motion(_ROTATIONS.project(_rotation(a)), _shift(a), 1)

    @override
    def violation(self, x: Tensor) -> Tensor:
        """That of the rotation, or what the last row is off (0, …, 0, 1) by, if more."""
        row = x[..., -1, :] - _last_row(x)
        return torch.maximum(_ROTATIONS.violation(_rotation(x)), row.abs().amax(-1))

    @override
    def tolerance(self, x: Tensor) -> Tensor:
        """That of the rotation, whatever the size of the translation."""
        return _ROTATIONS.tolerance(_rotation(x))

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] < 2:
            self._reject(shape, "matrices (*batch, n+1, n+1) with n ≥ 1: 4×4 for motions of space")

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """Dimension n(n-1)/2 + n, or n² - 1 + 2n if complex."""
        n = shape[-1] - 1
        turns = _ROTATIONS.dim((n, n), is_complex=is_complex)
        return turns + n * (2 if is_complex else 1)

    @override
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic: R·exp(RᴴU) and t + v."""
        return _motion(_ROTATIONS.exp(_rotation(x), _rotation(u)), _shift(x) + _shift(u), 1)

    @override
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """That of `SpecialOrthogonal`, and the difference of the translations."""
        return _motion(_ROTATIONS.log(_rotation(x), _rotation(y)), _shift(y) - _shift(x), 0)

    @override
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """(‖log RᴴS‖² + ‖t - s‖²)^½."""
        turned = _ROTATIONS.dist(_rotation(x), _rotation(y))
        moved = torch.linalg.vector_norm(_shift(x) - _shift(y), dim=-1)
        return torch.linalg.vector_norm(torch.stack([turned, moved], -1), dim=-1)

    @override
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """That of `SpecialOrthogonal`, and the translation as it is."""
        rotations = (_rotation(a) for a in (x, y, v))
        return _motion(_ROTATIONS.parallel_transport(*rotations), _shift(v), 0)

    # --- the group ---

    @staticmethod
    @upcast
    @exact_products
    def group_exp(a: Tensor) -> Tensor:
        """The screw motion exp(A) of A = [[W, ρ], [0, 0]], W skew-Hermitian: rotation and Vρ.

        V = ∫ exp(sW) ds over [0, 1]. By closed forms if real and n ≤ 3.
        """
        W, rho = _rotation(a), _shift(a)
        return _motion(linalg.exp_skew(W), _times(linalg.mean_rotation(W), rho), 1)

    @staticmethod
    @upcast
    @exact_products
    def group_log(x: Tensor) -> Tensor:
        """The A = [[W, V⁻¹t], [0, 0]] of least rotation with `group_exp(A)` = X.

        Unique, and NaN, where `SpecialOrthogonal.log` is.
        """
        R = _rotation(x)
        W = linalg.log_rotation(linalg.skew(R), linalg.sym(R))
        rho = torch.linalg.solve_ex(linalg.mean_rotation(W), _shift(x).unsqueeze(-1))[0]
        return _motion(W, rho.squeeze(-1), 0)


def _rotation(x: Tensor) -> Tensor:
    return x[..., :-1, :-1]


def _shift(x: Tensor) -> Tensor:
    return x[..., :-1, -1]


def _motion(R: Tensor, t: Tensor, corner: int) -> Tensor:
    """[[R, t], [0, corner]]."""
    top = torch.cat([R, t.unsqueeze(-1)], -1)
    return torch.cat([top, corner * _last_row(top)[..., None, :]], -2)


def _last_row(x: Tensor) -> Tensor:
    """(0, …, 0, 1) for each matrix."""
    return torch.nn.functional.pad(torch.zeros_like(x[..., 0, :-1]), (0, 1), value=1.0)


def _times(A: Tensor, v: Tensor) -> Tensor:
    return (A @ v.unsqueeze(-1)).squeeze(-1)
