"""Nonlinear conjugate gradients."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt.linalg import outside_autocast
from riemopt.solvers.line_search import LineSearch, StrongWolfe, first_length
from riemopt.solvers.method import Method, Move, Stepper
from riemopt.solvers.points import Mask, Numbers, host, times, where
from riemopt.solvers.problem import Evaluation, Problem

Rule = Literal["hager-zhang", "hestenes-stiefel", "polak-ribiere"]
_RULES = ("hager-zhang", "hestenes-stiefel", "polak-ribiere")


@dataclass(frozen=True)
class ConjugateGradient(Method):
    """d ← -grad f + β·(d transported); restarted where that is no good direction of descent.

    With y the change of the gradient, all at the new point x⁺:

    * "hager-zhang": β = ⟨y - 2d·⟨y, y⟩/⟨d, y⟩, grad f⟩/⟨d, y⟩, bounded from below (Hager & Zhang
      2005, eq. 1.3 and 1.5; on manifolds Sakai & Iiduka 2021).
    * "hestenes-stiefel": β = max(0, ⟨grad f, y⟩/⟨d, y⟩).
    * "polak-ribiere": β = max(0, ⟨grad f, y⟩/‖grad f(x)‖²), Polak–Ribière+ (Gilbert & Nocedal
      1992).

    Memory: four vectors of the size of a point, the least of all methods but "gradient".

    Not for: costs whose evaluation is dear; "lbfgs" needs fewer.

    Args:
        rule: which β.
        line_search: how far to go; conjugate directions want a search that is nearly exact.
        restart_every: iterations after which d is the negative gradient; None for the dimension.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import ConjugateGradient
        >>> A = torch.diag(torch.arange(1.0, 6.0)).double()
        >>> x, method = Sphere().project(torch.ones(5).double()), ConjugateGradient("polak-ribiere")
        >>> minimize(lambda x: x @ A @ x, x, Sphere(), method=method).success
        True
    """

    rule: Rule = "hager-zhang"
    line_search: LineSearch = field(default_factory=lambda: StrongWolfe(curvature=0.2))
    restart_every: int | None = None

    def __post_init__(self) -> None:
        if self.rule not in _RULES:
            raise ValueError(f"cg has the rules {', '.join(_RULES)}; got {self.rule!r}.")

    @override
    def start(self, problem: Problem, here: Evaluation) -> "_Run":
        every = problem.points.dim() if self.restart_every is None else self.restart_every
        return _Run(self, problem, here, max(every, 1))


class _Run(Stepper):
    def __init__(
        self, options: ConjugateGradient, problem: Problem, here: Evaluation, every: int
    ) -> None:
        self.options, self.problem, self.every = options, problem, every
        self.direction, self.slope = -here.grad, -np.square(here.norm)
        self.length = first_length(here)
        self.age = np.zeros(problem.points.batch, dtype=np.int64)
        """Iterations since d was the negative gradient."""

    @override
    def step(self, here: Evaluation, active: Mask) -> Move:
        found = self.options.line_search(
            self.problem, here, self.direction, self.slope, self.length, active
        )
        failed = active & ~found.moved
        stuck = failed & (self.age == 0)
        there = found.there
        old_slope = self.slope
        d, slope = self._next(here, there)
        restarts = ~(slope < -1e-10 * there.norm**2) | (self.age + 1 >= self.every) | failed
        steepest = where(failed, -here.grad, -there.grad)
        norm = np.where(failed, here.norm, there.norm)
        self.direction = where(restarts, steepest, d)
        self.slope = np.where(restarts, -np.square(norm), slope)
        self.age = np.where(restarts, 0, self.age + 1)
        # As much decrease to first order as in the last iteration (Nocedal & Wright 2006, §3.5).
        guess = found.length * np.clip(old_slope / self.slope, 0.1, 10)
        usual = 1 / np.where(norm > 0, norm, 1)
        self.length = np.where(found.moved & np.isfinite(guess) & (guess > 0), guess, usual)
        return Move(there, found.moved, np.asarray(stuck), {"step": found.length})

    @outside_autocast
    def _next(self, here: Evaluation, there: Evaluation) -> tuple[Tensor, Numbers]:
        """The next direction and its slope."""
        points = self.problem.points
        d, old = points.transport(
            here.x, there.x, torch.stack([self.direction, here.grad])
        ).unbind()
        y = there.grad - old
        dy, gy, yy, dg, dd = host(
            *(
                points.inner(there.x, a, b)
                for a, b in ((d, y), (there.grad, y), (y, y), (d, there.grad), (d, d))
            )
        )
        beta = self._beta(here, there, dy, gy, yy, dg, dd)
        beta = np.where(np.isfinite(beta), beta, 0.0)
        return times(beta, d) - there.grad, -np.square(there.norm) + beta * dg

    def _beta(
        self,
        here: Evaluation,
        there: Evaluation,
        dy: Numbers,
        gy: Numbers,
        yy: Numbers,
        dg: Numbers,
        dd: Numbers,
    ) -> Numbers:
        if self.options.rule == "polak-ribiere":
            return np.maximum(gy / np.square(here.norm), 0)
        if self.options.rule == "hestenes-stiefel":
            return np.maximum(gy / dy, 0)
        least = -1 / (np.sqrt(dd) * np.minimum(0.01, here.norm))
        return np.maximum((gy - 2 * dg * yy / dy) / dy, least)
