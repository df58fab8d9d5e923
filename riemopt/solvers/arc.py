"""Adaptive regularisation by cubics: Newton's method with a cubic term in place of a radius."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from typing_extensions import override

from riemopt.solvers.krylov import Krylov
from riemopt.solvers.method import Method, Move
from riemopt.solvers.points import Mask, Numbers, times, where
from riemopt.solvers.problem import Evaluation, Hessian, Problem
from riemopt.solvers.saddles import LeavesSaddles
from riemopt.solvers.trust_region import agreement, first_radius


@dataclass(frozen=True)
class ARC(Method):
    """Riemannian adaptive cubics (Agarwal, Boumal, Bullins & Cartis 2021).

    The model m(s) = f + ⟨grad f, s⟩ + ½⟨Hess f[s], s⟩ + ⅓σ‖s‖³ is minimised in Krylov spaces of
    the Hessian and the gradient, which grow until ‖grad m(s)‖ ≤ theta·‖s‖². The weight σ follows
    the agreement of the model with the cost. Saddle points are left, as by "trust-region"; of the
    two this one has the better bound on the number of iterations.

    Cost: a gradient for an iteration, and a Hessian–vector product for each dimension of the
    Krylov space, whose basis is kept in memory.

    Args:
        sigma: the first σ; None for 100 over eight times the first radius of "trust-region".
        theta: how exactly the model is minimised.
        max_inner: the largest Krylov space; None for the dimension.
        saddle_checks: as for "trust-region".

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import ARC
        >>> A = torch.diag(torch.arange(1.0, 6.0)).double()
        >>> x, method = Sphere().project(torch.ones(5).double()), ARC(theta=0.1)
        >>> minimize(lambda x: x @ A @ x, x, Sphere(), method=method).success
        True
    """

    second_order = True
    sigma: float | None = None
    theta: float = 0.5
    max_inner: int | None = None
    saddle_checks: int = 10

    def __post_init__(self) -> None:
        if self.sigma is not None and not self.sigma > 0:
            raise ValueError(f"arc needs sigma > 0; got {self.sigma!r}.")
        if not self.theta > 0:
            raise ValueError(f"arc needs theta > 0; got {self.theta!r}.")

    @override
    def start(self, problem: Problem, here: Evaluation) -> "_Run":
        usual = 100 / (8 * first_radius(problem.points, here))
        batch = problem.points.batch
        return _Run(self, problem, usual if self.sigma is None else np.full(batch, self.sigma))


class _Run(LeavesSaddles):
    def __init__(self, options: ARC, problem: Problem, sigma: Numbers) -> None:
        super().__init__(problem, options.saddle_checks)
        self.options, self.sigma, self.first = options, sigma, sigma

    @override
    def step(self, here: Evaluation, active: Mask) -> Move:
        problem, points = self.problem, self.problem.points
        hessian = problem.hessian(here, active)
        step, decrease = self._minimum_of_model(here, hessian, active)
        if self.escape is not None:
            leaves, along = self.escape
            self.escape = None
            along, slope, bend = self.descent(here, hessian, along)
            t = -bend / self.sigma
            step = where(leaves, times(t, along), step)
            decrease = np.where(leaves, -(t * slope + 0.5 * t * t * bend), decrease)
        there = problem.evaluate(points.retract(here.x, step), active)
        rho, taken, clear = agreement(problem, here, there, decrease)
        used = self.sigma
        factor = np.where(rho > 0.9, 0.1, np.where(rho >= 0.1, 1.0, 2.0))
        factor = np.where(active & (clear | (rho >= 0.1)) & np.isfinite(rho), factor, 1.0)
        factor = np.where(active & ~np.isfinite(there.value), 10.0, factor)
        self.sigma = np.maximum(used * factor, points.eps**2 * self.first)
        huge = self.sigma > self.first / points.eps**2
        stuck = active & ~taken & (~clear | huge)
        return Move(there, active & taken, np.asarray(stuck), {"sigma": used, "rho": rho})

    def _minimum_of_model(
        self, here: Evaluation, hessian: Hessian, active: Mask
    ) -> tuple[Tensor, Numbers]:
        """The step, 0 where not active, and by how much the quadratic part of the model falls."""
        points, norm = self.problem.points, here.norm
        space = Krylov.of(points, here.x, here.grad)
        limit = points.dim() if self.options.max_inner is None else self.options.max_inner
        c = np.zeros((*norm.shape, 1))
        done = ~active | (norm == 0)
        # A problem that is done keeps its coefficients while the space grows for the others.
        while not done.all() and len(space.diagonal) < max(limit, 1):
            space.grow(hessian)
            new = minimise_cubic(space.tridiagonal(), norm, self.sigma)
            grown = np.concatenate([c, np.zeros((*norm.shape, 1))], -1)[..., : new.shape[-1]]
            c = np.where(done[..., None], grown, new)
            length = np.linalg.norm(c, axis=-1)
            residual = space.off[-1] * np.abs(c[..., -1])
            enough = np.maximum(self.options.theta * length**2, 0.1 * self.problem.small)
            done = done | (residual <= enough) | space.is_invariant
        if not space.diagonal:
            return times(0.0, here.grad), np.zeros_like(norm)
        T = space.tridiagonal()
        c = np.where(active[..., None], c, 0.0)
        quadratic = 0.5 * np.einsum("...i,...ij,...j->...", c, T, c)
        return space.combine(c), -(norm * c[..., 0] + quadratic)


def minimise_cubic(T: Numbers, norm: Numbers, sigma: Numbers) -> Numbers:
    """The minimum of norm·c₁ + ½cᵀTc + ⅓σ‖c‖³, for matrices T `(*batch, k, k)`.

    It solves (T + λ)c = -norm·e₁ with λ = σ‖c‖ ≥ -λmin(T) (Cartis, Gould & Toint 2011, §6.1).
    """
    w, V = np.linalg.eigh(T)
    b = norm[..., None] * V[..., 0, :]
    floor = np.maximum(-w[..., 0], 0)
    size = np.abs(w).max(-1)
    # The hard case: no part of the gradient lies along the least eigenvalue. A tiny one is given.
    tiny = np.finfo(np.float64).eps * np.maximum(norm, np.finfo(np.float64).tiny)
    b[..., 0] = np.where(np.abs(b[..., 0]) < tiny, tiny, b[..., 0])
    # λ = floor + μ: near the floor, μ has digits that λ has not.
    base = w + floor[..., None]
    mu = np.sqrt(sigma * norm) + np.finfo(np.float64).eps * size
    low, high = np.zeros_like(mu), mu
    for _ in range(100):
        shifted, lam = base + mu[..., None], floor + mu
        q = b / shifted
        length = np.linalg.norm(q, axis=-1)
        excess = length - lam / sigma
        low, high = np.where(excess > 0, mu, low), np.where(excess > 0, high, mu)
        # Newton's step for 1/‖c‖ = σ/λ, by bisection where it leaves the bracket.
        growth = (q * q / shifted).sum(-1) / length**3
        newton = mu - (1 / length - sigma / lam) / (growth + sigma / lam**2)
        inside = (newton > low) & (newton < high)
        new = np.where(inside, newton, 0.5 * (low + high))
        settled = ~(np.abs(new - mu) > 1e-14 * mu)
        mu = new
        if settled.all():
            break
    return -(V @ (b / (base + mu[..., None]))[..., None])[..., 0]
