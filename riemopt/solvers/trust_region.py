"""Trust regions: Newton's method that is kept within a radius in which its model is good."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt.solvers.krylov import negative_curvature
from riemopt.solvers.method import Move, Stepper
from riemopt.solvers.points import Mask, Numbers, Points, host, times, where
from riemopt.solvers.problem import Evaluation, Hessian, Problem


@dataclass(frozen=True)
class TrustRegion:
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
    """

    radius: float | None = None
    kappa: float = 0.1
    theta: float = 1.0
    max_inner: int | None = None
    saddle_checks: int = 20

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


class _Run(Stepper):
    def __init__(
        self, options: TrustRegion, problem: Problem, first_norm: Numbers, radius: Numbers
    ) -> None:
        self.options, self.problem, self.radius = options, problem, radius
        self.first_norm = first_norm
        self.escape: tuple[Mask, Tensor] | None = None
        problem.keeps_graph = True

    @override
    def step(self, here: Evaluation, active: Mask) -> Move:
        problem, points = self.problem, self.problem.points
        hessian = problem.hessian(here, active)
        ratio = here.norm / np.where(self.first_norm > 0, self.first_norm, 1)
        target = here.norm * np.minimum(self.options.kappa, ratio**self.options.theta)
        inner = points.dim() if self.options.max_inner is None else self.options.max_inner
        model = truncated_cg(points, here, hessian, self.radius, target, inner, active)
        step, decrease, at_edge = model.step, model.decrease, model.at_edge
        if self.escape is not None:
            leaves, along = self.escape
            step, decrease, at_edge = self._escaping(here, hessian, model, leaves, along)
            self.escape = None
        y = where(active, points.retract(here.x, step), here.x)
        there = problem.evaluate(y, active)
        return self._judged(here, there, decrease, at_edge, active)

    def _escaping(
        self, here: Evaluation, hessian: Hessian, model: "Model", leaves: Mask, along: Tensor
    ) -> tuple[Tensor, Numbers, Mask]:
        """The step to the radius along a negative curvature, where the point is a saddle."""
        points = self.problem.points
        slope, bend = host(
            points.inner(here.x, here.grad, along), points.inner(here.x, hessian(along), along)
        )
        t = np.where(slope > 0, -self.radius, self.radius)
        fall = -(t * slope + 0.5 * t * t * bend)
        return (
            where(leaves, times(t, along), model.step),
            np.where(leaves, fall, model.decrease),
            np.asarray(leaves | model.at_edge),
        )

    def _judged(
        self, here: Evaluation, there: Evaluation, decrease: Numbers, at_edge: Mask, active: Mask
    ) -> Move:
        """Take the step or not, and adapt the radius."""
        # Near a minimum differences of values are rounding. Added to both sides of the ratio it
        # makes the model right (Conn, Gould & Toint 2000, §17.4.2).
        rounding = 10 * self.problem.rounding
        fall = here.value - there.value
        rho = (fall + rounding) / (decrease + rounding)
        unclear = (np.abs(fall) <= rounding) & (there.norm < here.norm)
        taken = active & np.isfinite(there.value) & ((rho > 0.1) | unclear) & (decrease >= 0)
        shrinks = ~(rho >= 0.25) & ~unclear
        used = self.radius
        self.radius = np.where(
            active & shrinks,
            used / 4,
            np.where(active & at_edge & (rho > 0.75), 2 * used, used),
        )
        tiny = self.problem.points.eps * first_radius(self.problem.points, here)
        stuck = active & ~taken & ((decrease <= rounding * 1e-3) | (self.radius < tiny))
        return Move(there, taken, np.asarray(stuck), {"radius": used, "rho": rho})

    @override
    def confirms(self, here: Evaluation, small: Mask) -> Mask:
        if not self.options.saddle_checks:
            return small
        points = self.problem.points
        hessian = self.problem.hessian(here, small)
        leaves, along = negative_curvature(
            points, here.x, hessian, self.options.saddle_checks, small
        )
        self.escape = (leaves, along) if leaves.any() else None
        return np.asarray(small & ~leaves)


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
