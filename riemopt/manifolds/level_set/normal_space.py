"""The normal space of {c = 0} at a point: the Jacobian J = Dc(x) by autograd, and J⁺.

    space = normal_space(c, x, few=32)
    space.tangent(u)            # u - J⁺Ju, the orthogonal projection on the kernel of J
    space.correct(y, r)         # y - J⁺r: a Newton step towards c = 0, when r = c(y)

Points are `(B, n)`, residuals `(B, m)`. J⁺ is the pseudo-inverse Jᵀ(JJᵀ)⁻¹, of which three forms
exist: one equation (a division), a few (J row by row, and a Cholesky factor of its m×m Gram
matrix), many (products with J and Jᵀ alone, and conjugate gradients). All three tolerate redundant
equations, the first two also equations of different scales.

Reference: Absil, Mahony & Sepulchre (2008), §3.6 and §5.2; Absil & Malick (2012).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from riemopt.linalg import adaptive, known_all, known_any, rounds
from riemopt.manifolds.level_set.derivative import Derivative, derivative

Residual = Callable[[Tensor], Tensor]

FIXED = 8
"""Iterations of conjugate gradients where nothing can be read, and nothing is known of the set."""


class NormalSpace(ABC):
    """J at `(B, n)` points, and what follows from it."""

    value: Tensor
    """c(x), `(B, m)`."""
    accuracy: float = 0.0
    """The part of a correction that `correct` may leave undone."""

    @abstractmethod
    def tangent(self, u: Tensor) -> Tensor:
        """u - J⁺Ju, `(B, n)`."""

    @abstractmethod
    def correct(self, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """y - J⁺r, `(B, n)`, and the distance of {c = 0} as it is seen from here, `(B, 1)`.

        That is ‖J⁺r‖, and more where r is not in the range of J: no step along the normal space
        removes the rest of r. Infinite where J is zero, or where nearly all of r is outside.
        """

    @abstractmethod
    def distance(self, r: Tensor) -> Tensor:
        """‖J⁺r‖, or an estimate of it, `(B, 1)`."""

    def nudge(self, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Cheaper `correct`, without the residual check: for when c(y) is evaluated next anyway."""
        return self.correct(y, r)

    def guess(self, r: Tensor) -> Tensor:
        """`distance`, by what the last `nudge` has seen of J."""
        return self.distance(r)

    @property
    def is_direct(self) -> bool:
        """Whether a `nudge` does all that `correct` does, where nothing can be read."""
        return False

    @abstractmethod
    def sizes(self) -> Tensor:
        """The norms of the rows of J, `(B, m)`, or an estimate for all of them, `(B, 1)`."""


def normal_space(
    c: Residual, x: Tensor, *, few: int, iterations: int | None, enough: int | None = None
) -> NormalSpace:
    """The normal space of c at `(B, n)` points.

    Args:
        c: `(B, n)` → `(B, m)`, each row by itself.
        x: the points.
        few: with more equations than that, J is not formed.
        iterations: of conjugate gradients where it is not; None leaves it to the residual, or
            takes a fixed number where that cannot be read: `enough`, if that is known, or 8.
    """
    d = derivative(c, x)
    m = d.value.shape[1]
    if m == 1:
        return OneEquation(d.value, d.rows()[:, 0])
    if m <= few:
        rows = d.rows()
        return FewEquations(d.value, rows, _is_noise(c, x, rows))
    return ManyEquations(d, iterations, enough)


def rank(c: Residual, x: Tensor) -> int:
    """The numerical rank of J at one point x, `(1, n)`, whatever the scales of the equations."""
    rows = derivative(c, x).rows()
    rows = rows * _inverse(lengths(rows)) * ~_is_noise(c, x, rows).unsqueeze(-1)
    return int(torch.linalg.matrix_rank(rows[0]))


def _is_noise(c: Residual, x: Tensor, rows: Tensor) -> Tensor:
    """Which rows of J are rounding errors of zero, such as those of aᵀKa for a skew matrix K.

    Such a row is as small as eps times the largest one. So can be the row of an equation of another
    scale, but its direction hardly changes where x is moved a little. Where no value can be read,
    all rows so small are taken for noise.
    """
    norms = lengths(rows).squeeze(-1)
    eps = torch.finfo(x.dtype).eps
    small = norms <= 8 * eps * norms.amax(1, keepdim=True)
    if not known_any(small & (norms > 0)):
        return small
    moved = x + eps**0.5 * lengths(x) / x.shape[1] ** 0.5 * _noise_like(x)
    again = derivative(c, moved).rows()
    cosine = (rows * again).sum(-1) * _inverse(norms) * _inverse(lengths(again).squeeze(-1))
    return small & ~(cosine > 0.9)


def _inverse(a: Tensor) -> Tensor:
    """1/a, and 0 for 0."""
    zero = a == 0
    return torch.where(zero, 0, 1 / torch.where(zero, 1, a))


def lengths(a: Tensor) -> Tensor:
    """The norm of each vector, `(…, n)` → `(…, 1)`."""
    return torch.linalg.vector_norm(a, dim=-1, keepdim=True)


def _noise_like(a: Tensor) -> Tensor:
    """Numbers of mean 0 and variance 1, the same in each row, without a random generator.

    Their quadratic phases are those of a Weyl sequence.
    """
    k = torch.arange(1, a.shape[-1] + 1, device=a.device)
    phase = (k * k * 2654435761 + k * 40503).remainder(1 << 32).to(a.dtype) / (1 << 32)
    return ((phase - 0.5) * 12**0.5).expand_as(a)


def _noise(y: Tensor, size: Tensor | float) -> Tensor:
    """The residual that rounding the entries of y makes, 32-fold; `size` is ‖J‖_F."""
    eps: float = torch.finfo(y.dtype).eps
    return 32 * eps * size / y.shape[-1] ** 0.5 * lengths(y)


def _quotient(a: Tensor, b: Tensor, chosen: Tensor) -> Tensor:
    """a/b where chosen, else 0."""
    if known_all(chosen):
        return a / b
    return torch.where(chosen, a * _inverse(b), 0)


def _refuse(length: Tensor, singular: Tensor) -> Tensor:
    return torch.where(singular, torch.inf, length)


@final
class OneEquation(NormalSpace):
    """J is one row g: J⁺r = g·r/‖g‖²."""

    def __init__(self, value: Tensor, row: Tensor) -> None:
        self.value = value
        self._row = row
        self._norm = lengths(row)
        self._inverse_norm = _inverse(self._norm)
        self._flat = self._norm == 0

    def tangent(self, u: Tensor) -> Tensor:
        """u - g⟨g, u⟩/‖g‖²."""
        # Twice divided: the square of a norm need not be representable.
        slope = (self._row * u).sum(-1, keepdim=True) * self._inverse_norm
        return torch.addcmul(u, self._row, slope * self._inverse_norm, value=-1)

    def correct(self, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """y - g·r/‖g‖² and |r|/‖g‖."""
        distance = r * self._inverse_norm
        corrected = torch.addcmul(y, self._row, distance * self._inverse_norm, value=-1)
        return corrected, _refuse(distance.abs(), self._flat & (r != 0))

    def distance(self, r: Tensor) -> Tensor:
        """|r|/‖g‖."""
        return (r * self._inverse_norm).abs()

    def sizes(self) -> Tensor:
        """‖g‖."""
        return self._norm


@final
class FewEquations(NormalSpace):
    """J is kept, its rows scaled to norm 1, and JJᵀ + τI factored.

    The τ, well above the rounding errors of JJᵀ, makes redundant equations harmless; refinement
    takes away what it changes of the others.
    """

    _REFINEMENTS = 2

    def __init__(self, value: Tensor, rows: Tensor, flat: Tensor) -> None:
        self.value = value
        self._norms = lengths(rows).squeeze(-1)  # (B, m)
        self._flat = flat
        eps = torch.finfo(value.dtype).eps
        self._inverse_norms = torch.where(self._flat, 0, _inverse(self._norms))
        self._rows = rows * self._inverse_norms.unsqueeze(-1)
        self._gram = self._rows @ self._rows.mT
        m = value.shape[1]
        tau = max(eps**0.75, 16 * m * eps)
        identity = torch.eye(m, dtype=value.dtype, device=value.device)
        factor, _ = torch.linalg.cholesky_ex(self._gram + tau * identity, check_errors=False)
        inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
        self._gram_inverse = inverse.mT @ inverse

    def _solve(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """λ with JJᵀλ = b, and b - JJᵀλ; `(B, m, 1)`."""
        x = self._gram_inverse @ b
        for _ in range(self._REFINEMENTS):
            x = x + self._gram_inverse @ (b - self._gram @ x)
        return x, b - self._gram @ x

    def tangent(self, u: Tensor) -> Tensor:
        """u - Jᵀ(JJᵀ)⁻¹Ju, twice: the first leaves eps times the condition number of JJᵀ."""
        for _ in range(2):
            multipliers, _ = self._solve(self._rows @ u.unsqueeze(-1))
            u = u - (multipliers.mT @ self._rows).squeeze(-2)
        return u

    def correct(self, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """y - Jᵀλ, JJᵀλ = r."""
        b = (r * self._inverse_norms).unsqueeze(-1)
        multipliers, left = self._solve(b)
        correction = (multipliers.mT @ self._rows).squeeze(-2)
        distance = lengths(correction)
        # The rows have norm 1: what of the residual is left is a distance.
        unseen = (lengths(left.squeeze(-1)) - _noise(y, b.shape[1] ** 0.5)).clamp(min=0)
        largest = self._norms.amax(1, keepdim=True)
        lost = self._flat & (r.abs() > _noise(y, largest * y.shape[1] ** 0.5))
        singular = (unseen > distance) | lost.any(-1, keepdim=True)
        return y - correction, _refuse(distance + unseen, singular)

    def distance(self, r: Tensor) -> Tensor:
        """‖Jᵀλ‖."""
        multipliers, _ = self._solve((r * self._inverse_norms).unsqueeze(-1))
        return lengths((multipliers.mT @ self._rows).squeeze(-2))

    def sizes(self) -> Tensor:
        """The norms of the rows; for a row that is noise, the largest norm, whose noise it is."""
        return torch.where(self._flat, self._norms.amax(1, keepdim=True), self._norms)


@final
class ManyEquations(NormalSpace):
    """J is known by products alone; J⁺r by Craig's form of conjugate gradients on JJᵀλ = r.

    Where JJᵀ is a multiple of the identity on its range (spheres, orthonormal columns) one
    iteration is exact, also if equations repeat each other. r in the range of J stays in it, so
    the iteration never meets the kernel of JJᵀ but through rounding; it ends for a point when its
    residual or the curvature has vanished.

    Reference: Golub & Van Loan (2013), §11.3.9 (CGNE); Craig (1955).
    """

    _AT_MOST = 100
    # The next Newton step corrects what this one leaves.
    accuracy = 1e-3

    def __init__(
        self, jacobian: Derivative, iterations: int | None, enough: int | None = None
    ) -> None:
        self.value = jacobian.value
        self._jacobian = jacobian
        self._iterations = iterations
        self._fixed = min(self.value.shape[1], enough or FIXED)
        self._sigma: Tensor | None = None

    def tangent(self, u: Tensor) -> Tensor:
        """u - J⁺Ju, until the residual J(u - J⁺Ju) is rounding."""
        b, tolerance = self._jacobian.apply(u), 2 * torch.finfo(u.dtype).eps * lengths(u)
        solution, _ = self._craig(b, tolerance, relative=False, ends_with_residual=False)
        return u - solution

    @property
    def is_direct(self) -> bool:
        """Whether one iteration is all there are."""
        return len(self._steps(self.value)) == 1

    def unsolved(self, b: Tensor) -> Tensor:
        """‖b - JJ⁺b‖ as the iterations leave it, `(B, 1)`."""
        return self._craig(b, torch.zeros_like(b[:, :1]), relative=True)[1]

    def correct(self, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """y - J⁺r, to a relative residual of `accuracy`."""
        tolerance = torch.full_like(r[:, :1], self.accuracy)
        floor = torch.finfo(y.dtype).eps * lengths(y)
        solution, left = self._craig(r, tolerance, relative=True, floor=floor)
        distance = lengths(solution)
        unsolved = left > self.accuracy * lengths(r)
        if not known_all(~unsolved):
            size = self._size()
            unseen = (left - _noise(y, size)).clamp(min=0) * _inverse(size)
            unseen = torch.where(unsolved, unseen * r.shape[1] ** 0.5, 0)
            useless = (unseen > distance) | ((size == 0) & (left > 0))
            distance = _refuse(distance + unseen, useless)
        return y - solution, _refuse(distance, ~left.isfinite())

    def distance(self, r: Tensor) -> Tensor:
        """‖r‖²/‖Jᵀr‖: exact where JJᵀ is a multiple of the identity."""
        return lengths(r).square() * _inverse(lengths(self._jacobian.adjoint(r)))

    def nudge(self, y: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """The first iteration: y - Jᵀr·‖r‖²/‖Jᵀr‖², exact where `distance` is.

        All iterations where what the first one leaves cannot be seen, unless one is enough.
        """
        if not adaptive(y) and not self.is_direct:
            tolerance = torch.full_like(r[:, :1], self.accuracy)
            solution, _ = self._craig(r, tolerance, relative=True, ends_with_residual=False)
            return y - solution, lengths(solution)
        p, size = self._jacobian.adjoint(r), lengths(r)
        self._sigma = lengths(p) / size
        factor = size.square() * _inverse(lengths(p).square())
        useless = (self._sigma == 0) & (size > 0)
        return torch.addcmul(y, p, factor, value=-1), _refuse(lengths(p) * factor, useless)

    def guess(self, r: Tensor) -> Tensor:
        """‖r‖/σ, σ being what J did to the residual of the nudge; `distance` without one."""
        return self.distance(r) if self._sigma is None else lengths(r) * _inverse(self._sigma)

    def _craig(
        self,
        b: Tensor,
        tolerance: Tensor,
        *,
        relative: bool,
        floor: Tensor | None = None,
        ends_with_residual: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """x = J⁺b, and ‖b - Jx‖, or if not `ends_with_residual` that before the last iteration.

        The tolerance is one of ‖b - Jx‖/‖b‖, or, not relative, of the distance ‖b - Jx‖/σ, σ being
        the size of J as seen in ‖Jᵀb‖/‖b‖. A distance of `floor` is enough in any case: of what
        rounding made, a part is outside of the range of J, and more iterations would blow it up.
        """
        eps = torch.finfo(b.dtype).eps
        r, p = b, self._jacobian.adjoint(b)
        rr, qq = lengths(r).square(), lengths(p).square()
        sigma2 = qq * _inverse(rr)
        limit = tolerance.square() * (rr if relative else sigma2)
        if floor is not None:
            limit = torch.maximum(limit, floor.square() * sigma2)
        x = None
        steps = self._steps(b)
        for step in steps:
            # What is left may be outside of the range of J, by rounding or since c is singular.
            active = (rr > limit) & (qq > eps * sigma2 * rr)
            if known_all(~active):
                break
            alpha = _quotient(rr, qq, active)
            x = p * alpha if x is None else torch.addcmul(x, p, alpha)
            if step == steps[-1] and not ends_with_residual:
                break
            r = torch.addcmul(r, self._jacobian.apply(p), alpha, value=-1)
            new = lengths(r).square()
            if step == steps[-1] or known_all(new <= limit):
                rr = new
                break
            p = torch.addcmul(self._jacobian.adjoint(r), p, _quotient(new, rr, active))
            rr, qq = new, lengths(p).square()
        return torch.zeros_like(p) if x is None else x, rr.sqrt()

    def sizes(self) -> Tensor:
        """max |Jz| for noise z: |(Jz)ᵢ|² is ‖Jᵢ‖² in the mean."""
        z = _noise_like(self._jacobian.adjoint(self.value))
        return self._jacobian.apply(z).abs().amax(1, keepdim=True)

    def _size(self) -> Tensor:
        """An estimate of ‖J‖_F, `(B, 1)`: ‖Jᵀw‖ for noise w (Hutchinson)."""
        return lengths(self._jacobian.adjoint(_noise_like(self.value)))

    def _steps(self, b: Tensor) -> range:
        if self._iterations is not None:
            return range(self._iterations)
        return rounds(b, at_most=min(b.shape[1], self._AT_MOST), fixed=self._fixed)
