"""Equations and inequalities beside a manifold: the augmented Lagrangian.

    minimize(fun, x0, Sphere(), constraints={"type": "ineq", "fun": lambda x: x})   # x ≥ 0

Constraints are lower ≤ c(x) ≤ upper, of which equations are those with equal bounds. With
multipliers λ and a penalty ρ, what is minimised on the manifold is

    f(x) + ½ρ‖z - clamp(z)‖²,    z = c(x) + λ/ρ,

where clamp(z) is the nearest point within the bounds. Then λ becomes ρ(z - clamp(z)), and ρ grows
where the violation has not fallen enough (Bertsekas 1982, §3.1; Birgin & Martínez 2014, algorithm
4.1; on manifolds Liu & Boumal 2020, algorithm 1).
"""

import math
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from riemopt.solvers.result import Result, Row

FALL = 0.25
"""Where the violation has not fallen to this part, ρ grows."""
GROWTH = 10.0
LARGEST_PENALTY = 1e14
LARGEST_MULTIPLIER = 1e14
MAX_OUTER = 100


@dataclass
class ConstrainedResult(Result):
    """As `Result`, and how the constraints are met.

    Attributes:
        multipliers: λ for each constraint, of its shape: ∇f + Σ λ·∇c is normal to the manifold.
            Positive at upper bounds, negative at lower ones, 0 where neither is reached.
        violation: the largest amount by which a constraint is broken.

    `fun` is the cost itself, `grad_norm` is that of the Lagrangian, and nit, nfev, njev and nhev
    count those of all subproblems, which the history lists with the number of the subproblem
    (`outer`), `violation` and `penalty`; its `fun` is the augmented Lagrangian's.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> x = Sphere().project(torch.ones(3).double())
        >>> above = {"type": "ineq", "fun": lambda x: x[2]}  # x₂ ≥ 0
        >>> result = minimize(lambda x: x[1] + x[2], x, Sphere(), constraints=above)
        >>> result.success, result.violation < 1e-6
        (True, True)
        >>> round(result.multipliers[0].item(), 3)
        -1.0
    """

    multipliers: list[Tensor]
    violation: float


@dataclass(frozen=True)
class Bounds:
    """lower ≤ function(x) ≤ upper."""

    function: Callable[..., Tensor]
    lower: Tensor
    upper: Tensor


def bounds_of(constraints: Any) -> list[Bounds]:
    """Constraints in SciPy's forms: dicts {"type", "fun"}, or objects with `fun`, `lb` and `ub`.

    Raises:
        TypeError, ValueError: a constraint of another form, an unknown type or key, lb > ub.
    """
    several = constraints if isinstance(constraints, Sequence) else [constraints]
    return [_bounds(c) for c in several]


def _bounds(constraint: Any) -> Bounds:
    if isinstance(constraint, Mapping):
        unknown = set(constraint) - {"type", "fun"}
        if unknown or set(constraint) != {"type", "fun"}:
            raise ValueError(
                'A constraint is {"type": "eq" or "ineq", "fun": function}; got the keys '
                f"{sorted(constraint)}. Derivatives are those of autograd, and further arguments "
                "are given by a lambda."
            )
        uppers = {"eq": 0.0, "ineq": math.inf}
        if constraint["type"] not in uppers:
            raise ValueError(
                'The type of a constraint is "eq", fun(x) = 0, or "ineq", fun(x) ≥ 0; got '
                f"{constraint['type']!r}."
            )
        function, lower, upper = constraint["fun"], 0.0, uppers[constraint["type"]]
    elif all(hasattr(constraint, name) for name in ("fun", "lb", "ub")):
        function, lower, upper = constraint.fun, constraint.lb, constraint.ub
    else:
        raise TypeError(
            'A constraint is a dict {"type": "eq" or "ineq", "fun": function}, or has fun, lb and '
            f"ub, as scipy.optimize.NonlinearConstraint; got {constraint!r}."
        )
    if not callable(function):
        raise TypeError(f"A constraint's fun must be a function of the point; got {function!r}.")
    low, high = (torch.as_tensor(b, dtype=torch.float64) for b in (lower, upper))
    if not bool((low <= high).all()):
        raise ValueError(f"A constraint's lb must not be above its ub; got {lower!r}, {upper!r}.")
    return Bounds(function, low, high)


def minimize_constrained(
    minimize: Callable[..., Result],
    fun: Callable[..., Tensor],
    x0: Any,
    manifold: Any,
    constraints: list[Bounds],
    *,
    tol: float | None,
    options: dict[str, Any],
    **others: Any,
) -> ConstrainedResult:
    """`minimize` with constraints; arguments as there.

    Args:
        minimize: that solves a subproblem.
        constraints: of `bounds_of`.
        options: may hold `ctol`, the violation that is allowed, in units of 1 + |c(x0)|, and
            `penalty`, the first ρ.
    """
    run = _Run(fun, x0, constraints, options)
    final = run.eps**0.6 if tol is None else tol
    results: list[Result] = []
    point, violation = x0, math.inf
    for outer in range(MAX_OUTER):
        loose = max(final, 1e-2 * 0.1**outer)
        result = minimize(
            run.augmented,
            point,
            manifold,
            tol=loose,
            options=run.options_left(results, loose),
            **others,
        )
        results.append(result)
        if not isinstance(x0, nn.Module):
            point = result.x
        before, violation = violation, run.update(point)
        run.note(result, outer, violation)
        if result.status in (3, 4) or run.is_over(results):
            break
        done = violation <= run.ctol and (result.status == 2 or loose == final)
        if done or run.penalty > LARGEST_PENALTY:
            break
        if violation > max(FALL * before, run.ctol):
            run.penalty *= GROWTH
    return run.result(results, point)


class _Run:
    def __init__(
        self,
        fun: Callable[..., Tensor],
        x0: Any,
        constraints: list[Bounds],
        options: dict[str, Any],
    ) -> None:
        self.fun, self.options = fun, dict(options)
        self.begin = clock.perf_counter()
        self.takes_point = not isinstance(x0, nn.Module)
        with torch.no_grad():
            self.cost = float(torch.as_tensor(self._of(fun, x0)).detach())
            values = [_checked(self._of(c.function, x0)).detach() for c in constraints]
        self.eps = max(torch.finfo(v.dtype).eps for v in values)
        self.constraints = [
            Bounds(c.function, *(b.to(v).expand(v.shape) for b in (c.lower, c.upper)))
            for c, v in zip(constraints, values, strict=True)
        ]
        size = max((float(v.abs().max()) for v in values if v.numel()), default=0.0)
        ctol = self.options.pop("ctol", None)
        self.ctol = self.eps**0.5 * (1 + size) if ctol is None else ctol
        self.multipliers = [torch.zeros_like(v) for v in values]
        self.broken = math.inf
        square = sum(
            float((v - v.clamp(c.lower, c.upper)).square().sum())
            for v, c in zip(values, self.constraints, strict=True)
        )
        # The penalty is to weigh as much as the cost (Birgin & Martínez 2014, eq. 12.1).
        first = 10 * max(1.0, abs(self.cost)) / max(1.0, square / 2)
        self.penalty = self.options.pop("penalty", None) or min(max(first, 1e-6), 10.0)
        self.history: list[Row] = []

    def _of(self, function: Callable[..., Tensor], x: Any) -> Tensor:
        return function(x) if self.takes_point else function()

    def _residuals(self, x: Any) -> Iterator[tuple[Tensor, Tensor, Bounds]]:
        """c(x), and z - clamp(z), of each constraint."""
        for c, multiplier in zip(self.constraints, self.multipliers, strict=True):
            value = _checked(self._of(c.function, x))
            z = value + multiplier / self.penalty
            yield value, z - z.clamp(c.lower, c.upper), c

    def augmented(self, *point: Any) -> Tensor:
        """The augmented Lagrangian: of a point, or of a module's parameters as they are."""
        x = point[0] if point else None
        total = self._of(self.fun, x)
        for _, outside, _ in self._residuals(x):
            total = total + self.penalty / 2 * outside.square().sum()
        return total

    def update(self, x: Any) -> float:
        """New multipliers; how far x is from feasible and complementary."""
        with torch.no_grad():
            self.cost = float(torch.as_tensor(self._of(self.fun, x)).detach())
            residuals = [(v.detach(), o.detach(), c) for v, o, c in self._residuals(x)]
        distance, self.broken = 0.0, 0.0
        for i, (value, outside, c) in enumerate(residuals):
            new = (self.penalty * outside).clamp(-LARGEST_MULTIPLIER, LARGEST_MULTIPLIER)
            if value.numel():
                change = (new - self.multipliers[i]) / self.penalty
                distance = max(distance, float(change.abs().max()))
                over = value - value.clamp(c.lower, c.upper)
                self.broken = max(self.broken, float(over.abs().max()))
            self.multipliers[i] = new
        return distance

    def note(self, result: Result, outer: int, violation: float) -> None:
        """Add the subproblem to the history."""
        columns = {"outer": outer, "violation": violation, "penalty": self.penalty}
        self.history += [{**row, **columns} for row in result.history]

    def options_left(self, results: list[Result], loose: float = 0.0) -> dict[str, Any]:
        """The options, of limits what is left.

        A subproblem begins near its minimum. So its tolerance is one of the first gradient as well.
        """
        left = dict(self.options)
        if results and np.isfinite(results[0].history[0]["grad_norm"]):
            first = loose * results[0].history[0]["grad_norm"]
            left["gtol"] = max(left.get("gtol", 0.0), first)
        if "maxiter" in left:
            left["maxiter"] -= sum(r.nit for r in results)
        if left.get("maxfev") is not None:
            left["maxfev"] -= sum(r.nfev for r in results)
        if left.get("maxtime") is not None:
            left["maxtime"] -= clock.perf_counter() - self.begin
        return left

    def is_over(self, results: list[Result]) -> bool:
        """Whether a limit of the whole is reached."""
        left = self.options_left(results)
        limits = (left.get(name) for name in ("maxiter", "maxfev", "maxtime"))
        return any(limit is not None and limit <= 0 for limit in limits)

    def result(self, results: list[Result], x: Any) -> ConstrainedResult:
        last = results[-1]
        feasible = self.broken <= self.ctol
        status, message = last.status, last.message
        if status in (0, 2) and not feasible:
            status = 2
            message = (
                f"The constraints are not met: they are broken by {self.broken:.2e}, where "
                f"{self.ctol:.2e} is allowed. Is there a point near x0 that meets them all?"
            )
        elif status in (0, 2):
            status = 0
            message = (
                f"Converged: constraints are met to {self.broken:.1e}, and the Lagrangian's "
                f"gradient norm is {last.grad_norm:.2e}"
            )
        fields = {name: sum(getattr(r, name) for r in results) for name in _COUNTERS}
        return ConstrainedResult(
            x=last.x,
            fun=self.cost,
            grad_norm=last.grad_norm,
            **fields,
            time=clock.perf_counter() - self.begin,
            success=status == 0,
            status=status,
            message=message,
            method=last.method,
            history=self.history,
            multipliers=self.multipliers,
            violation=self.broken,
        )


_COUNTERS = ("nit", "nfev", "njev", "nhev")


def _checked(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"A constraint must return a tensor of real numbers; got {found}.")
    return value
