"""Nelder and Mead's simplex method, in tangent spaces; it needs no gradient."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from riemopt.solvers.gradient_free import GradientFree, known, orthonormal_basis
from riemopt.solvers.method import Method, Move, Stepper
from riemopt.solvers.points import Mask, Numbers, times, where
from riemopt.solvers.problem import Evaluation, Problem
from riemopt.solvers.trust_region import first_radius


@dataclass(frozen=True)
class NelderMead(Method):
    """A simplex that moves away from its worst corner (Nelder & Mead 1965).

    The simplex lies in the tangent space at one point, from which corners are retracted
    (Dreisigmeyer 2006). Where all values agree, a new one, of a tenth of the size, begins at the
    best corner; the method ends when that has found nothing lower. How far corners are moved
    depends on the dimension (Gao & Han 2012).

    For: costs without a gradient, such as the result of a simulation, in up to ten dimensions or
    so; that are noisy, or not smooth.

    Not for: costs that autograd can differentiate, where all other methods need far fewer calls.

    Args:
        size: the length of the first edges; None for an eighth of the length of the start, or of
            √dim where the metric is not the ambient one.
        ftol: the values agree to this part of the lowest one; `tol` sets it. None for eps^0.75:
            2e-12 in float64.
        seed: of the directions of the edges.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import NelderMead
        >>> start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
        >>> found = minimize(lambda x: float(x[2]), start, Sphere(), method=NelderMead(size=0.5))
        >>> round(found.fun, 4)
        -1.0
    """

    problem = GradientFree
    size: float | None = None
    ftol: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("ftol", self.ftol)):
            if value is not None and not value > 0:
                raise ValueError(f"nelder-mead needs {name} > 0; got {value!r}.")

    @override
    def start(self, problem: Problem, here: Evaluation) -> "_Run":
        """With the first simplex, all but one of whose corners are evaluated."""
        return _Run(self, problem, here)


class _Run(Stepper):
    converged = "Converged: the values on the simplex agree, and a new simplex found no lower one"

    def __init__(self, options: NelderMead, problem: Problem, here: Evaluation) -> None:
        self.problem, self.points = problem, problem.points
        dim = max(self.points.dim(), 2)
        self.expansion = 1 + 2 / dim
        self.contraction = 0.75 - 1 / (2 * dim)
        self.shrinkage = 1 - 1 / dim
        self.ftol = self.points.eps**0.75 if options.ftol is None else options.ftol
        first = first_radius(self.points, here) if options.size is None else options.size
        self.size = np.full(self.points.batch, first)
        self.generator = torch.Generator(here.x.device).manual_seed(options.seed)
        # Tangent vectors (dim + 1, *batch, N) at `base`, and the values there (dim + 1, *batch).
        self.base = here.x
        self.corners = torch.zeros_like(here.x).expand(self.points.dim() + 1, *here.x.shape)
        self.values = np.stack([here.value] * len(self.corners))
        self.lowest_before = np.full(self.points.batch, np.inf)
        self._begin(problem.all)
        self.first_spread = self.values.max(0) - self.values.min(0)

    def _begin(self, mask: Mask) -> None:
        """A new simplex around the best corner, of the problems of the mask."""
        best = self.points.retract(self.base, self.corners[0])
        self.base = where(mask, best, self.base)
        edges = orthonormal_basis(self.points, self.base, self.generator)
        corners = torch.cat([torch.zeros_like(edges[:1]), times(self.size, edges)])
        values = [self.values[0], *(self._value(c, mask) for c in corners[1:])]
        self._replace(mask, corners, np.stack(values))

    def _value(self, u: Tensor, mask: Mask) -> Numbers:
        return self.problem.value(self.points.retract(self.base, u), mask)

    def _replace(self, mask: Mask, corners: Tensor, values: Numbers) -> None:
        """Take them for the problems of the mask, and sort all by value."""
        corners = where(np.stack([mask] * len(values)), corners, self.corners)
        values = np.where(mask, values, self.values)
        order = np.argsort(values, axis=0, kind="stable")
        self.values = np.take_along_axis(values, order, 0)
        index = torch.from_numpy(order).to(corners.device).unsqueeze(-1)
        self.corners = torch.take_along_dim(corners, index, 0)

    @override
    def step(self, here: Evaluation, active: Mask) -> Move:
        self._replace(active, *self._moved(active))
        best = known(self.points.retract(self.base, self.corners[0]), self.values[0])
        moved = active & (best.value < here.value)
        agreed = self.ftol * np.maximum(np.abs(best.value), self.ftol * self.first_spread)
        spread = self.values[-1] - self.values[0]
        flat = active & (spread <= agreed)
        stuck = flat & (self.lowest_before - best.value <= agreed)
        renew = flat & ~stuck
        if renew.any():
            self.lowest_before = np.where(renew, best.value, self.lowest_before)
            self.size = np.where(renew, self.size / 10, self.size)
            self._begin(renew)
        return Move(best, moved, stuck, {"spread": spread})

    def _moved(self, active: Mask) -> tuple[Tensor, Numbers]:
        """The corners after one move of the simplex, with their values."""
        corners, values = self.corners, self.values
        best, second_worst, worst = values[0], values[-2], values[-1]
        center = corners[:-1].mean(0)
        away = center - corners[-1]
        at_reflected = self._value(center + away, active)
        expands = at_reflected < best
        is_good = ~expands & (at_reflected < second_worst)
        outside = at_reflected < worst
        t = np.where(outside, self.contraction, -self.contraction)
        t = np.where(expands, self.expansion, t)
        tries = active & ~is_good
        at_trial = self._value(center + times(t, away), tries) if tries.any() else worst
        takes_trial = tries & (at_trial < np.where(outside, at_reflected, worst))
        takes_reflected = ~takes_trial & (expands | is_good)
        t = np.where(takes_trial, t, 1.0)
        new = where(takes_trial | takes_reflected, center + times(t, away), corners[-1])
        value = np.where(takes_reflected, at_reflected, worst)
        value = np.where(takes_trial, at_trial, value)
        corners = torch.cat([corners[:-1], new.unsqueeze(0)])
        values = np.concatenate([values[:-1], value[None]])
        shrinks = active & ~takes_trial & ~takes_reflected
        if shrinks.any():
            shrunk = corners[0] + self.shrinkage * (corners - corners[0])
            fresh = np.stack([best, *(self._value(c, shrinks) for c in shrunk[1:])])
            corners = where(np.stack([shrinks] * len(values)), shrunk, corners)
            values = np.where(shrinks, fresh, values)
        return corners, values
