"""Line searches: how far to go along a direction. Values, which a method is given.

    minimize(fun, x0, manifold, options={"line_search": StrongWolfe(curvature=0.1)})

A search is called with a descent direction at a point and a first trial length, and returns the
evaluation at the point it has found. All problems of a batch are searched together: each round
evaluates one trial of every problem that has not ended, and those that have stay where they are.

Let φ(t) = f(R(x, t·d)), R the retraction. Its derivative φ'(t) comes from the gradient at the trial
and the velocity of the curve there.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from riemopt.solvers.points import Mask, Numbers, times
from riemopt.solvers.problem import Evaluation, Problem


class Found(NamedTuple):
    """What a line search has found.

    Examples:
        >>> import numpy as np, torch
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import Backtracking, Points, Problem
        >>> from riemopt.solvers.structure import structure_of
        >>> x, one = torch.tensor([1.0, 0.0]), np.array(1.0)
        >>> problem = Problem(structure_of(lambda x: x[1], x, Sphere()), Points([x], [Sphere()]))
        >>> here = problem.evaluate(x)
        >>> found = Backtracking()(problem, here, -here.grad, -(here.norm**2), one, problem.all)
        >>> found.moved.item(), found.length.item(), round(found.there.value.item(), 3)
        (True, 1.0, -0.707)
    """

    there: Evaluation
    """At t = `length`: where a problem has failed, the best that was found, or the start again."""
    length: Numbers
    """t."""
    moved: Mask
    """Whether the value is lower, or equal to rounding and the slope less."""


class LineSearch(Protocol):
    """How far to go along a direction.

    Examples:
        >>> from riemopt.solvers import Backtracking, LineSearch
        >>> search: LineSearch = Backtracking()  # StrongWolfe() is another
    """

    def __call__(
        self,
        problem: Problem,
        here: Evaluation,
        direction: Tensor,
        slope: Numbers,
        length: Numbers,
        active: Mask,
    ) -> Found:
        """Search from `here`.

        Args:
            problem: the cost.
            here: the start.
            direction: a tangent vector, along which the cost falls.
            slope: φ'(0) < 0.
            length: the first trial.
            active: which problems are searched; others keep the length 0.
        """
        ...


@dataclass(frozen=True)
class StrongWolfe:
    """A length with enough decrease at which the slope is small: one gradient for each trial.

        φ(t) ≤ φ(0) + decrease·t·φ'(0)    and    |φ'(t)| ≤ curvature·|φ'(0)|

    Where values differ by no more than rounding, only slopes tell where the minimum is: there the
    first is replaced by φ(t) ≤ φ(0) + ε (the approximate Wolfe conditions of Hager & Zhang 2005),
    so that a search does not stall near an optimum. Trials bracket a minimum and then come from
    Hermite's cubic, or from the secant of the slopes (Nocedal & Wright 2006, §3.5).

    Args:
        decrease: 0 < decrease < ½.
        curvature: decrease < curvature < 1; less for conjugate gradients than for quasi-Newton
            steps, since they count on nearly exact searches.
        max_trials: after which the best length so far is taken.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import StrongWolfe
        >>> x = Sphere().project(torch.ones(3).double())
        >>> options = {"line_search": StrongWolfe(curvature=0.1)}
        >>> minimize(lambda x: x[2], x, Sphere(), method="cg", options=options).success
        True
    """

    decrease: float = 1e-4
    curvature: float = 0.9
    max_trials: int = 30

    def __post_init__(self) -> None:
        if not (0 < self.decrease < 0.5 and self.decrease < self.curvature < 1):
            raise ValueError(
                "StrongWolfe needs 0 < decrease < ½ and decrease < curvature < 1; got "
                f"decrease={self.decrease!r}, curvature={self.curvature!r}."
            )
        if self.max_trials < 1:
            raise ValueError(f"StrongWolfe needs max_trials ≥ 1; got {self.max_trials!r}.")

    def __call__(
        self,
        problem: Problem,
        here: Evaluation,
        direction: Tensor,
        slope: Numbers,
        length: Numbers,
        active: Mask,
    ) -> Found:
        """As in `LineSearch`."""
        t = np.where(active, length, 0.0)
        error = problem.rounding
        # The bracket: at `low` the minimum lies ahead, at `high` it lies behind. Values are
        # differences to φ(0).
        zero = np.zeros_like(t)
        low = _End(zero, zero, slope)
        high = _End(zero + np.inf, zero + np.inf, zero)
        searching = active
        for _ in range(self.max_trials):
            there = _trial(problem, here, direction, t, searching)
            rise = there.value - here.value
            enough = rise <= np.maximum(self.decrease * t * slope, error)
            enough |= _unclear(t * slope, rise, error) & (there.norm < here.norm)
            searching = searching & ~(
                enough & (np.abs(there.slope) <= self.curvature * np.abs(slope))
            )
            if not searching.any():
                return Found(there, t, active)
            trial = _End(t, rise, there.slope)
            behind = ~enough | (rise > low.rise + 100 * error) | (there.slope >= 0)
            extrapolated = _ahead(low, trial)
            low = _pick(searching & ~behind, trial, low)
            high = _pick(searching & behind, trial, high)
            with_bracket = _between(low, high, error)
            t = np.where(searching, np.where(np.isinf(high.t), extrapolated, with_bracket), t)
        # Not ended: the best end of the bracket, which satisfies the first condition at least.
        t = np.where(searching, low.t, t)
        there = _trial(problem, here, direction, t, searching)
        better = (there.value < here.value) | (there.norm < here.norm)
        return Found(there, t, active & (~searching | ((t > 0) & better)))


def _unclear(foretold: Numbers, rise: Numbers, error: Numbers) -> Mask:
    """Where both what the slope foretells and what is seen may be rounding of the values.

    A cost is computed in many operations: its rounding may be a hundred times that of the result.
    """
    return np.asarray((np.abs(foretold) <= 100 * error) & (np.abs(rise) <= 100 * error))


class _End(NamedTuple):
    """One end of a bracket: length, φ(t) - φ(0), φ'(t)."""

    t: Numbers
    rise: Numbers
    slope: Numbers


def _pick(mask: Mask, a: _End, b: _End) -> _End:
    return _End(*(np.where(mask, p, q) for p, q in zip(a, b, strict=True)))


def _trial(
    problem: Problem, here: Evaluation, direction: Tensor, t: Numbers, searching: Mask
) -> Evaluation:
    y, velocity = problem.points.curve(here.x, direction, t)
    return problem.evaluate(y, searching, velocity)


def _ahead(low: _End, trial: _End) -> Numbers:
    """Beyond the trial: where the secant of the slopes is 0, from twice to ten times as far."""
    guess = trial.t - trial.slope * (trial.t - low.t) / (trial.slope - low.slope)
    guess = np.where(trial.slope > low.slope, guess, np.inf)
    return np.clip(guess, 2 * trial.t, 10 * trial.t)


def _between(low: _End, high: _End, error: Numbers) -> Numbers:
    """Inside the bracket: the minimum of Hermite's cubic, or of the secant where values are noise.

    A tenth of the bracket at least is cut off at each end.
    """
    width = high.t - low.t
    d1 = low.slope + high.slope - 3 * (high.rise - low.rise) / width
    root = np.sqrt(np.maximum(d1 * d1 - low.slope * high.slope, 0))
    cubic = high.t - width * (high.slope + root - d1) / (high.slope - low.slope + 2 * root)
    secant = low.t - width * low.slope / (high.slope - low.slope)
    noisy = (high.slope > 0) & (np.abs(high.rise - low.rise) <= 10 * error)
    guess = np.where(noisy, secant, cubic)
    guess = np.where(np.isfinite(guess) & np.isfinite(high.rise), guess, low.t + 0.3 * width)
    return np.clip(guess, low.t + 0.1 * width, high.t - 0.1 * width)


@dataclass(frozen=True)
class Backtracking:
    """Armijo's rule, by quadratic interpolation back from the first trial.

        φ(t) ≤ reference + decrease·t·φ'(0)

    The reference is φ(0), or what a method gives instead: a mean of earlier values lets the cost
    rise now and then (Zhang & Hager 2004).

    Args:
        decrease: 0 < decrease < 1.
        max_trials: after which the search has failed.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import Backtracking
        >>> x = Sphere().project(torch.ones(3).double())
        >>> options = {"line_search": Backtracking(decrease=0.1)}
        >>> minimize(lambda x: x[2], x, Sphere(), method="gradient", options=options).success
        True
    """

    decrease: float = 1e-4
    max_trials: int = 40

    def __post_init__(self) -> None:
        if not (0 < self.decrease < 1 and self.max_trials >= 1):
            raise ValueError(
                "Backtracking needs 0 < decrease < 1 and max_trials ≥ 1; got "
                f"decrease={self.decrease!r}, max_trials={self.max_trials!r}."
            )

    def __call__(
        self,
        problem: Problem,
        here: Evaluation,
        direction: Tensor,
        slope: Numbers,
        length: Numbers,
        active: Mask,
        reference: Numbers | None = None,
    ) -> Found:
        """As in `LineSearch`."""
        above = here.value if reference is None else np.maximum(reference, here.value)
        t = np.where(active, length, 0.0)
        error = problem.rounding
        searching = active
        for _ in range(self.max_trials):
            y = problem.points.retract(here.x, times(t, direction))
            there = problem.evaluate(y, searching)
            enough = there.value <= above + self.decrease * t * slope + error
            # Where values are rounding, the gradient must fall.
            unclear = _unclear(t * slope, there.value - here.value, error)
            falls = there.norm < here.norm
            searching = searching & ~np.where(unclear, falls, enough)
            if not searching.any():
                return Found(there, t, active)
            # The minimum of the parabola through φ(0), φ'(0) and φ(t).
            guess = -slope * t * t / (2 * (there.value - here.value - slope * t))
            guess = np.where(np.isfinite(guess), guess, 0.0)
            t = np.where(searching, np.clip(guess, 0.1 * t, 0.5 * t), t)
        t = np.where(searching, 0.0, t)
        there = problem.evaluate(problem.points.retract(here.x, times(t, direction)), searching)
        return Found(there, t, active & ~searching)


def first_length(here: Evaluation) -> Numbers:
    """Of the first trial along -grad f: of a step of length 1."""
    return 1 / np.where(here.norm > 0, here.norm, 1)
