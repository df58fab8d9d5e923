"""Levenberg–Marquardt: least squares by damped Gauss–Newton steps."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt.linalg import outside_autocast
from riemopt.solvers.method import Method, Move, Stepper
from riemopt.solvers.points import Mask, Numbers, host, times
from riemopt.solvers.problem import Evaluation, Hessian, Problem
from riemopt.solvers.trust_region import truncated_cg


class LeastSquares(Problem):
    """½‖r(x)‖² of residuals r that `fun` returns: a tensor of any shape, `(*batch, …)`."""

    @override
    def _cost(self, leaves: list[Tensor]) -> Tensor:
        return self._residuals(leaves).square().sum(-1) / 2

    def _residuals(self, leaves: list[Tensor]) -> Tensor:
        """r as rows `(*batch, m)`."""
        r, batch = self._structure.cost(leaves), self.points.batch
        if not isinstance(r, Tensor) or not r.is_floating_point():
            found = f"a tensor of {r.dtype}" if isinstance(r, Tensor) else type(r).__name__
            raise TypeError(
                f"'levenberg-marquardt' needs residuals, a tensor of real numbers; got {found}."
            )
        if r.ndim <= len(batch) or tuple(r.shape[: len(batch)]) != batch:
            lead = f" after the dimensions {batch} of the batch" if batch else ""
            raise ValueError(
                "'levenberg-marquardt' minimises half the sum of squares of what the cost returns: "
                f"it must return the residuals, with at least one dimension{lead}, and not their "
                f"sum; got the shape {tuple(r.shape)}."
            )
        return r.reshape(*batch, -1)

    def gauss_newton(self, here: Evaluation, active: Mask) -> Hessian:
        """u ↦ JᵀJu in the metric at `here`, J the derivative of the residuals.

        The Hessian without the curvature of the residuals. Each product is a backward pass through
        the transposed derivative, which makes Ju, and one through r, which makes JᵀJu.
        """
        self.nfev += active
        with torch.inference_mode(False), torch.enable_grad():
            leaves = self._structure.leaves(self.points.unpack(here.x))
            r = self._residuals(leaves)
            weight = torch.zeros_like(r).requires_grad_()
            transposed = torch.autograd.grad(
                r, leaves, weight, create_graph=True, allow_unused=True, materialize_grads=True
            )
        linear = [g.requires_grad for g in transposed]

        @outside_autocast
        def product(u: Tensor) -> Tensor:
            self.nhev += active
            pairs = zip(transposed, self.points.unpack(u), linear, strict=True)
            outputs, vectors = zip(*((g, v) for g, v, on in pairs if on), strict=True)
            (Ju,) = torch.autograd.grad(outputs, weight, vectors, retain_graph=True)
            back = torch.autograd.grad(
                r, leaves, Ju, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            return self.points.egrad2rgrad(here.x, self.points.pack(back))

        return product


@dataclass(frozen=True)
class LevenbergMarquardt(Method):
    """Damped Gauss–Newton steps for a sum of squares: (JᵀJ + λ)u = -Jᵀr, x ← R(x, u).

    `fun` returns the residuals r, and ½‖r‖² is minimised. λ falls where the model has foretold the
    cost, to a third at most, and grows where it has not (Nielsen 1999; Madsen, Nielsen & Tingleff
    2004, §3.2; on manifolds Adachi, Okuno & Takeda 2022). The equation is solved by conjugate
    gradients, ever more exactly, so that no Jacobian is formed: each of their steps costs two
    backward passes, and nothing grows with more than the number of residuals.

    Few iterations where residuals are small at the minimum, or nearly linear: pose graphs, bundle
    adjustment, calibration, fits of curves.

    Not for: large residuals that bend much, where "trust-region" sees the whole Hessian.

    Args:
        damping: λ at the start as a part of the curvature along the gradient.
        forcing: conjugate gradients stop at this part of the gradient norm, or earlier where the
            gradient has fallen by more.
        max_inner: and after so many steps.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import SpecialOrthogonal
        >>> from riemopt.solvers import LevenbergMarquardt
        >>> R, a = SpecialOrthogonal().random_point(3, 3).double(), torch.randn(10, 3).double()
        >>> method = LevenbergMarquardt(damping=1e-2)
        >>> start, residuals = torch.eye(3).double(), lambda X: (X - R) @ a.mT
        >>> found = minimize(residuals, start, SpecialOrthogonal(), method=method)
        >>> torch.allclose(found.x, R, atol=1e-6)
        True
    """

    problem = LeastSquares
    damping: float = 1e-3
    forcing: float = 1e-2
    max_inner: int = 1000

    def __post_init__(self) -> None:
        if not (self.damping > 0 and 0 < self.forcing < 1 and self.max_inner >= 1):
            raise ValueError(
                "levenberg-marquardt needs damping > 0, 0 < forcing < 1 and max_inner ≥ 1; got "
                f"damping={self.damping!r}, forcing={self.forcing!r}, max_inner={self.max_inner!r}."
            )

    @override
    def start(self, problem: Problem, here: Evaluation) -> "_Run":
        """λ is chosen by the first step."""
        assert isinstance(problem, LeastSquares)
        return _Run(self, problem, here)


ACCEPTED = 1e-4
"""A step is taken where the cost falls by this part of what the model foretells."""

HOPELESS = 64.0
"""Where only rounding is foretold, λ grows this far in search of a step that lowers the gradient:
by a factor of two, four, … each time."""


class _Run(Stepper):
    def __init__(
        self, options: LevenbergMarquardt, problem: LeastSquares, here: Evaluation
    ) -> None:
        self.options, self.problem = options, problem
        self.first_norm = here.norm
        self.damping: Numbers | None = None
        self.growth = np.full(problem.points.batch, 2.0)

    @override
    def step(self, here: Evaluation, active: Mask) -> Move:
        problem, points = self.problem, self.problem.points
        product = problem.gauss_newton(here, active)
        if self.damping is None:
            (curvature,) = host(points.inner(here.x, here.grad, product(here.grad)))
            self.damping = self.options.damping * _quotient(curvature, np.square(here.norm))
        damping = self.damping
        relative = np.minimum(self.options.forcing, _quotient(here.norm, self.first_norm))
        model = truncated_cg(
            points,
            here,
            lambda u: product(u) + times(damping, u),
            np.full_like(damping, np.inf),
            relative * here.norm,
            self.options.max_inner,
            active,
        )
        there = problem.evaluate(points.retract(here.x, model.step), active)

        # Beside rounding neither number means much, and their quotient is to be 1.
        error = problem.rounding
        fall = here.value - there.value
        (length,) = host(points.inner(here.x, model.step, model.step))
        foretold = model.decrease + damping * length / 2
        ratio = (fall + error) / (foretold + error)
        moved = active & (ratio >= ACCEPTED)
        moved &= (fall > error) | (there.norm < here.norm)
        stuck = active & ~moved & (foretold <= error) & (self.growth >= HOPELESS)
        shrunk = np.maximum(1 / 3, 1 - (2 * np.minimum(ratio, 1) - 1) ** 3)
        self.damping = self.damping * np.where(moved, shrunk, self.growth)
        self.growth = np.where(moved, 2.0, 2 * self.growth)
        return Move(there, moved, stuck, {"damping": damping})


def _quotient(a: Numbers, b: Numbers) -> Numbers:
    """a/b, and 0 where b is 0."""
    return np.asarray(np.where(b > 0, a / np.where(b > 0, b, 1), 0.0))
