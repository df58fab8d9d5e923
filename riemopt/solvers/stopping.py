"""When a solver stops, and how it says why.

    stop = GradientNorm(relative=1e-9) | MaxIterations(500) | (MaxTime(60) & ValueBelow(0.1))

A rule is a value. `|` stops where either is met, `&` where both are. A rule looks at a `Progress`,
answers for each problem of a batch, and says in words what was met. `minimize` puts rules together
from `tol` and `options`; `options={"stop": rule}` adds another.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from riemopt.solvers.points import Mask, Numbers
from riemopt.solvers.problem import Evaluation

Index = tuple[int, ...]
"""Of a problem in the batch; () if there is one alone."""


@dataclass(frozen=True)
class Progress:
    """How far a solver has come. Numbers are arrays of the shape batch.

    Examples:
        >>> from riemopt.solvers import Rule
        >>> class Halved(Rule):  # the gradient norm, since the start
        ...     def met(self, progress):
        ...         return progress.here.norm <= progress.start.norm / 2
        ...     def message(self, progress, i):
        ...         return f"Half of the gradient norm, after {progress.nit[i]} iterations"
    """

    nit: NDArray[np.int64]
    nfev: NDArray[np.int64]
    time: float
    """Seconds since the start."""
    here: Evaluation
    start: Evaluation
    previous: Evaluation
    """One iteration ago; at the start the start itself."""
    eps: float
    """Of the dtype of the point."""


class Rule(ABC):
    """A reason to stop.

    Examples:
        >>> import numpy as np, torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import MaxIterations, Rule
        >>> class Even(Rule):  # a rule of one's own
        ...     def met(self, progress):
        ...         return progress.nit % 2 == 0
        ...     def message(self, progress, i):
        ...         return "An even number of iterations"
        >>> rule = Even() & MaxIterations(1)
        >>> x = Sphere().project(torch.ones(3).double())
        >>> minimize(lambda x: x[2], x, Sphere(), options={"stop": rule}).nit
        2
    """

    success = False
    """Whether a minimum is found where it is met."""

    @abstractmethod
    def met(self, progress: Progress) -> Mask:
        """Where to stop, of the shape batch."""

    @abstractmethod
    def message(self, progress: Progress, i: Index) -> str:
        """Why problem `i` stops, where the rule is met there: a sentence without its full stop."""

    def reason(self, progress: Progress, i: Index) -> tuple[str, int]:
        """The message for problem `i`, and the status: 0 for a success, 1 for a limit."""
        return self.message(progress, i), 0 if self.success else 1

    def __or__(self, other: "Rule") -> "Rule":
        return AnyOf((self, other))

    def __and__(self, other: "Rule") -> "Rule":
        return AllOf((self, other))


@dataclass(frozen=True)
class GradientNorm(Rule):
    """‖grad f(x)‖ ≤ absolute, or ≤ relative·max(‖grad f(x₀)‖, ‖∇f(x)‖), in the metric at x.

    ∇f is the Euclidean gradient, whose normal part does not vanish at a minimum on a curved
    manifold; it counts in the ambient metric alone, where it has a length. So the rule does not
    depend on the unit of the cost, and what rounding allows is a multiple of eps of the dtype.

    Args:
        relative: None for eps^0.6 of the dtype: 4e-10 in float64, 7e-5 in float32.
        absolute: 0 for none.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import GradientNorm
        >>> x = Sphere().project(torch.ones(3).double())
        >>> options = {"stop": GradientNorm(absolute=1e-2)}
        >>> minimize(lambda x: x[2], x, Sphere(), options=options).message
        'Converged: the gradient norm 8.26e-03 is within 1.00e-02'
    """

    relative: float | None = None
    absolute: float = 0.0
    success = True

    def __post_init__(self) -> None:
        if self.relative is not None and not self.relative >= 0:
            raise ValueError(f"tol must be a number ≥ 0, or None; got {self.relative!r}.")

    def bound(self, progress: Progress) -> Numbers:
        """What the norm must not exceed."""
        relative = progress.eps**0.6 if self.relative is None else self.relative
        scale = np.maximum(progress.start.norm, progress.here.scale)
        return np.maximum(self.absolute, relative * scale)

    @override
    def met(self, progress: Progress) -> Mask:
        return np.asarray(progress.here.norm <= self.bound(progress))

    @override
    def message(self, progress: Progress, i: Index) -> str:
        norm, bound = progress.here.norm[i], self.bound(progress)[i]
        return f"Converged: the gradient norm {norm:.2e} is within {bound:.2e}"


@dataclass(frozen=True)
class ValueBelow(Rule):
    """f(x) ≤ value.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import ValueBelow
        >>> x = Sphere().project(torch.ones(3).double())
        >>> options = {"stop": ValueBelow(-0.9)}
        >>> minimize(lambda x: x[2], x, Sphere(), options=options).message
        'The cost -0.916618 has reached -0.9'
    """

    value: float
    success = True

    @override
    def met(self, progress: Progress) -> Mask:
        return np.asarray(progress.here.value <= self.value)

    @override
    def message(self, progress: Progress, i: Index) -> str:
        return f"The cost {progress.here.value[i]:.6g} has reached {self.value:.6g}"


@dataclass(frozen=True)
class SmallDecrease(Rule):
    """f(previous) - f(x) ≤ relative·max(|f(previous)|, |f(x)|): the cost hardly falls any more.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import SmallDecrease
        >>> x = Sphere().project(torch.ones(3).double())
        >>> options = {"stop": SmallDecrease(1e-2)}
        >>> minimize(lambda x: x[2], x, Sphere(), options=options).message
        'The cost fell by 3.41e-05 alone, 1.0e-02 of it or less'
    """

    relative: float
    success = True

    @override
    def met(self, progress: Progress) -> Mask:
        before, now = progress.previous.value, progress.here.value
        bound = self.relative * np.maximum(np.abs(before), np.abs(now))
        return np.asarray((progress.nit > 0) & (before - now <= bound))

    @override
    def message(self, progress: Progress, i: Index) -> str:
        fall = progress.previous.value[i] - progress.here.value[i]
        return f"The cost fell by {fall:.2e} alone, {self.relative:.1e} of it or less"


@dataclass(frozen=True)
class MaxIterations(Rule):
    """After so many iterations.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import MaxIterations
        >>> x = Sphere().project(torch.ones(3).double())
        >>> options = {"stop": MaxIterations(1)}
        >>> minimize(lambda x: x[2], x, Sphere(), options=options).message
        'Stopped after the 1 iterations of maxiter: the gradient norm is still 9.86e-01'
    """

    iterations: int

    @override
    def met(self, progress: Progress) -> Mask:
        return np.asarray(progress.nit >= self.iterations)

    @override
    def message(self, progress: Progress, i: Index) -> str:
        return _left(progress, i, f"the {self.iterations} iterations of maxiter")


@dataclass(frozen=True)
class MaxEvaluations(Rule):
    """After so many calls of the cost; the iteration under way is ended.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> from riemopt.solvers import MaxEvaluations
        >>> x = Sphere().project(torch.ones(3).double())
        >>> options = {"stop": MaxEvaluations(2)}
        >>> minimize(lambda x: x[2], x, Sphere(), options=options).message
        'Stopped after the 2 evaluations of maxfev: the gradient norm is still 9.86e-01'
    """

    evaluations: int

    @override
    def met(self, progress: Progress) -> Mask:
        return np.asarray(progress.nfev >= self.evaluations)

    @override
    def message(self, progress: Progress, i: Index) -> str:
        return _left(progress, i, f"the {self.evaluations} evaluations of maxfev")


@dataclass(frozen=True)
class MaxTime(Rule):
    """After so many seconds; the iteration under way is ended.

    Examples:
        >>> from riemopt.solvers import GradientNorm, MaxTime
        >>> rule = GradientNorm(absolute=1e-3) | MaxTime(60)  # after a minute, at the latest
    """

    seconds: float

    @override
    def met(self, progress: Progress) -> Mask:
        return np.full(progress.nit.shape, progress.time >= self.seconds)

    @override
    def message(self, progress: Progress, i: Index) -> str:
        return _left(progress, i, f"the {self.seconds:g} seconds of maxtime")


def _left(progress: Progress, i: Index, limit: str) -> str:
    norm = progress.here.norm[i]
    left = "" if np.isnan(norm) else f": the gradient norm is still {norm:.2e}"
    return f"Stopped after {limit}{left}"


@dataclass(frozen=True)
class AnyOf(Rule):
    """Where one of several rules is met; the first that is gives the reason."""

    rules: tuple[Rule, ...]

    @override
    def met(self, progress: Progress) -> Mask:
        return np.asarray(np.any([rule.met(progress) for rule in self.rules], axis=0))

    def _first(self, progress: Progress, i: Index) -> Rule:
        return next(rule for rule in self.rules if rule.met(progress)[i])

    @override
    def message(self, progress: Progress, i: Index) -> str:
        return self._first(progress, i).message(progress, i)

    @override
    def reason(self, progress: Progress, i: Index) -> tuple[str, int]:
        return self._first(progress, i).reason(progress, i)


@dataclass(frozen=True)
class AllOf(Rule):
    """Where all of several rules are met."""

    rules: tuple[Rule, ...]

    @override
    def met(self, progress: Progress) -> Mask:
        return np.asarray(np.all([rule.met(progress) for rule in self.rules], axis=0))

    @override
    def message(self, progress: Progress, i: Index) -> str:
        return "; ".join(rule.message(progress, i) for rule in self.rules)

    @override
    def reason(self, progress: Progress, i: Index) -> tuple[str, int]:
        return self.message(progress, i), max(rule.reason(progress, i)[1] for rule in self.rules)
