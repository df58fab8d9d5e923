"""The gradient method, with the steps of Barzilai and Borwein."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt.linalg import outside_autocast
from riemopt.solvers.line_search import Backtracking, first_length
from riemopt.solvers.method import Method, Move, Stepper
from riemopt.solvers.points import Mask, Numbers, host, times
from riemopt.solvers.problem import Evaluation, Problem


@dataclass(frozen=True)
class BarzilaiBorwein(Method):
    """Steps along -grad f of lengths from the curvature of the last one (Iannazzo & Porcelli 2018).

    With s the last step and y the change of the gradient, both at the new point, in turns
    ⟨s, s⟩/⟨s, y⟩ and ⟨s, y⟩/⟨y, y⟩. The cost may rise for a while, as these steps need it: it is
    compared with a mean of its earlier values (Zhang & Hager 2004).

    Cost: one gradient an iteration, rarely more. Memory: two vectors of the size of a point.

    Not for: ill-conditioned problems.

    Args:
        line_search: Armijo's rule.
        mean: how much earlier values count, 0 ≤ mean < 1; with 0 the cost falls in each step.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import BarzilaiBorwein
        >>> A = torch.diag(torch.arange(1.0, 6.0)).double()
        >>> x, method = Sphere().project(torch.ones(5).double()), BarzilaiBorwein(mean=0.0)
        >>> minimize(lambda x: x @ A @ x, x, Sphere(), method=method).success
        True
    """

    line_search: Backtracking = field(default_factory=Backtracking)
    mean: float = 0.85

    def __post_init__(self) -> None:
        if not 0 <= self.mean < 1:
            raise ValueError(f"gradient needs 0 ≤ mean < 1; got {self.mean!r}.")

    @override
    def start(self, problem: Problem, here: Evaluation) -> "_Run":
        return _Run(self, problem, here)


class _Run(Stepper):
    def __init__(self, options: BarzilaiBorwein, problem: Problem, here: Evaluation) -> None:
        self.options, self.problem = options, problem
        self.length = first_length(here)
        self.reference, self.weight = here.value, np.ones(problem.points.batch)
        self.count = 0
        self.fresh = np.ones(problem.points.batch, dtype=bool)
        """Where the length has nothing to do with curvature yet."""

    @override
    def step(self, here: Evaluation, active: Mask) -> Move:
        slope = -np.square(here.norm)
        found = self.options.line_search(
            self.problem, here, -here.grad, slope, self.length, active, self.reference
        )
        there, moved = found.there, found.moved
        failed = active & ~moved
        stuck = failed & self.fresh
        self.count += 1
        length = self._length(here, there, found.length)
        self.length = np.where(failed, first_length(here), length)
        self.fresh = failed
        weight = self.options.mean * self.weight + 1
        reference = (self.options.mean * self.weight * self.reference + there.value) / weight
        self.weight = np.where(moved, weight, 1.0)
        self.reference = np.where(moved, reference, here.value)
        return Move(there, moved, np.asarray(stuck), {"step": found.length})

    @outside_autocast
    def _length(self, here: Evaluation, there: Evaluation, taken: Numbers) -> Numbers:
        points = self.problem.points
        rows = torch.stack([times(-taken, here.grad), here.grad])
        s, old = points.transport(here.x, there.x, rows).unbind()
        y: Tensor = there.grad - old
        ss, sy, yy = host(*(points.inner(there.x, a, b) for a, b in ((s, s), (s, y), (y, y))))
        long = self.count % 2 == 1
        length = ss / np.abs(sy) if long else np.abs(sy) / yy
        # Without a curvature: as long a step as the last one, or a longer one if it is negative.
        usable = np.isfinite(length) & (length > 0)
        return np.clip(np.where(usable, length, taken), 1e-10 * taken, 1e10 * taken)
