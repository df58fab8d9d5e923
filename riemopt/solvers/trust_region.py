"""Trust regions: Newton's method that is kept within a radius in which its model is good."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt.solvers.method import Method, Move
from riemopt.solvers.points import Mask, Numbers, Points, host, times, where
from riemopt.solvers.problem import Evaluation, Hessian, Problem
from riemopt.solvers.saddles import LeavesSaddles


@dataclass(frozen=True)
class TrustRegion(Method):
    """Riemannian trust regions with truncated conjugate gradients (Absil, Baker & Gallivan 2007).

    The model m(s) = f + ⟨grad f, s⟩ + ½⟨Hess f[s], s⟩ is made small by the conjugate gradients of
    Steihaug and Toint, that end at the radius, at a direction of negative curvature, or where the
    residual is small: ‖r‖ ≤ ‖grad f‖·min(kappa, (‖grad f‖/‖grad f(x₀)‖)^theta). The step is taken
    where the cost falls by a tenth at least of what the model says; the radius follows the
    agreement.

    Converges like Newton's method near a minimum, superlinearly. Where the gradient is small,
    Lanczos's method looks for a direction along which the cost falls all the same: saddle points
    are left.

    Cost: a gradient for an iteration, and a Hessian–vector product for each of the conjugate
    gradients, which is about two gradients.

    For: minima to all digits; ill-conditioned problems.

    Args:
        radius: the first; None for an eighth of the length of the start, or of √dim where the
            metric is not the ambient one.
        kappa: the part of the gradient that may be left far from a minimum.
        theta: the order of convergence is 1 + theta.
        max_inner: conjugate gradients for each step; None for the dimension.
        saddle_checks: products with the Hessian that are spent at most to see whether the point is
            a saddle; 0 to take any small gradient for a minimum.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import TrustRegion
        >>> A = torch.diag(torch.arange(1.0, 6.0)).double()
        >>> x, method = Sphere().project(torch.ones(5).double()), TrustRegion(radius=0.1)
        >>> minimize(lambda x: x @ A @ x, x, Sphere(), method=method).success
        True
    """

    second_order = True
    radius: float | None = None
    kappa: float = 0.1
    theta: float = 0.5
    max_inner: int | None = None
    saddle_checks: int = 10

    def __post_init__(self) -> None:
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"trust-region needs a radius > 0; got {self.radius!r}.")
        if not 0 < self.kappa < 1 or self.theta < 0:
            raise ValueError(
                "trust-region needs 0 < kappa < 1 and theta ≥ 0; got "
                f"kappa={self.kappa!r}, theta={self.theta!r}."
            )

    def start(self, problem: Problem, here: Evaluation) -> "_Run":
        """With the first radius."""
        radius = first_radius(problem.points, here) if self.radius is None else self.radius
        return _Run(self, problem, here.norm, np.full(problem.points.batch, radius))


def first_radius(points: Points, here: Evaluation) -> Numbers:
    """An eighth of the length of x, or of √dim where lengths in the metric are others."""
    size = np.zeros(points.batch)
    if points.is_ambient:
        size = np.sqrt(host(torch.linalg.vecdot(here.x, here.x))[0])
    return np.where(size > 0, size, max(points.dim(), 1) ** 0.5) / 8


class _Run(LeavesSaddles):
    def __init__(
        self, options: TrustRegion, problem: Problem, first_norm: Numbers, radius: Numbers
    ) -> None:
        super().__init__(problem, options.saddle_checks)
        self.options, self.radius, self.first_norm = options, radius, first_norm

    @override
    def step(self, here: Evaluation, active: Mask) -> Move:
        problem, points = self.problem, self.problem.points
        hessian = problem.hessian(here, active)
        ratio = here.norm / np.where(self.first_norm > 0, self.first_norm, 1)
        target = here.norm * np.minimum(self.options.kappa, ratio**self.options.theta)
        target = np.maximum(target, 0.1 * problem.small)
        inner = points.dim() if self.options.max_inner is None else self.options.max_inner
        model = truncated_cg(points, here, hessian, self.radius, target, inner, active)
        if self.escape is not None:
            model = self._to_the_edge(here, hessian, model)
        there = problem.evaluate(points.retract(here.x, model.step), active)
        rho, taken, clear = agreement(problem, here, there, model.decrease)
        used = self.radius
        shrinks = active & ~(rho >= 0.25) & clear
        grows = active & model.at_edge & (rho > 0.75)
        self.radius = np.where(shrinks, used / 4, np.where(grows, 2 * used, used))
        tiny = self.radius < points.eps * first_radius(points, here)
        stuck = active & ~taken & (~clear | tiny)
        return Move(there, active & taken, np.asarray(stuck), {"radius": used, "rho": rho})

    def _to_the_edge(self, here: Evaluation, hessian: Hessian, model: "Model") -> "Model":
        """At saddles the step along the negative curvature, as long as the radius is."""
        assert self.escape is not None
        leaves, along = self.escape
        self.escape = None
        along, slope, bend = self.descent(here, hessian, along)
        decrease = -(self.radius * slope + 0.5 * self.radius**2 * bend)
        return Model(
            where(leaves, times(self.radius, along), model.step),
            np.where(leaves, decrease, model.decrease),
            np.asarray(leaves | model.at_edge),
        )


def agreement(
    problem: Problem, here: Evaluation, there: Evaluation, decrease: Numbers
) -> tuple[Numbers, Mask, Mask]:
    """How well a model has foretold the decrease of the cost.

    Near a minimum differences of values are rounding. As much is added to both sides of the ratio,
    which makes a model right where nothing can be told (Conn, Gould & Toint 2000, §17.4.2).

    Returns:
        The ratio ρ; whether to take the step: where it is above a tenth, or where no value but the
        gradient tells that it is good; and whether the values tell.
    """
    rounding = 10 * problem.rounding
    fall = here.value - there.value
    rho = (fall + rounding) / (decrease + rounding)
    clear = ~((np.abs(fall) <= rounding) & (decrease <= rounding))
    better = ~clear & (there.norm < here.norm)
    taken = np.isfinite(there.value) & (decrease >= 0) & ((clear & (rho > 0.1)) | better)
    return rho, np.asarray(taken), np.asarray(clear)


class Model(NamedTuple):
    """An approximate minimum of the model."""

    step: Tensor
    decrease: Numbers
    """f minus the model there."""
    at_edge: Mask
    """Whether it lies on the radius."""


def truncated_cg(
    points: Points,
    here: Evaluation,
    hessian: Hessian,
    radius: Numbers,
    target: Numbers,
    max_inner: int,
    active: Mask,
) -> Model:
    """Conjugate gradients of Steihaug and Toint (Absil et al. 2008, algorithm 11).

    Letters: s the step, r = grad f + Hess f[s] the residual, d the direction.

    Args:
        points, here, hessian: where.
        radius: ‖s‖ ≤ radius.
        target: stop at this ‖r‖.
        max_inner: and after so many products with the Hessian.
        active: which problems; others have a step of 0.
    """
    s, r = torch.zeros_like(here.grad), here.grad
    d = -r
    rr = np.square(here.norm)
    ss, sd, dd = np.zeros_like(rr), np.zeros_like(rr), rr
    decrease = np.zeros_like(rr)
    at_edge = np.zeros(rr.shape, dtype=bool)
    going = np.asarray(active & (rr > 0))
    for _ in range(max_inner):
        if not going.any():
            break
        Hd = hessian(d)
        (dHd,) = host(points.inner(here.x, d, Hd))
        alpha = rr / np.where(dHd != 0, dHd, 1)
        ss_next = ss + 2 * alpha * sd + alpha**2 * dd
        ends = going & ((dHd <= 0) | (ss_next >= radius**2))
        to_edge = (-sd + np.sqrt(sd**2 + dd * (radius**2 - ss))) / dd
        t = np.where(going, np.where(ends, to_edge, alpha), 0.0)
        # ⟨d, r⟩ = -⟨r, r⟩, since r is orthogonal to the earlier directions.
        decrease = decrease + np.where(going, t * rr - 0.5 * t**2 * dHd, 0.0)
        s = s + times(t, d)
        at_edge = at_edge | ends
        going = going & ~ends
        if not going.any():
            break
        r = r + times(np.where(going, alpha, 0.0), Hd)
        (square,) = host(points.inner(here.x, r, r))
        going = going & (np.sqrt(np.maximum(square, 0)) > target)
        beta = np.where(going, square / np.where(rr > 0, rr, 1), 0.0)
        d = times(beta, d) - r
        sd = beta * (sd + alpha * dd)
        ss = ss_next
        dd = square + beta**2 * dd
        rr = square
    return Model(s, decrease, np.asarray(at_edge))
