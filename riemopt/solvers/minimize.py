"""`minimize`: the loop around a method. It evaluates, stops, freezes, counts and reports."""

import contextlib
import dataclasses
import difflib
import sys
import time as clock
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from riemopt.solvers.arc import ARC
from riemopt.solvers.augmented_lagrangian import bounds_of, minimize_constrained
from riemopt.solvers.conjugate_gradient import ConjugateGradient
from riemopt.solvers.gradient import BarzilaiBorwein
from riemopt.solvers.lbfgs import LBFGS
from riemopt.solvers.levenberg_marquardt import LevenbergMarquardt
from riemopt.solvers.method import Method, Stepper
from riemopt.solvers.nelder_mead import NelderMead
from riemopt.solvers.particle_swarm import ParticleSwarm
from riemopt.solvers.points import Mask, Points, where
from riemopt.solvers.problem import Evaluation, Problem, choose
from riemopt.solvers.result import Iterate, Result, Row
from riemopt.solvers.stopping import (
    GradientNorm,
    MaxEvaluations,
    MaxIterations,
    MaxTime,
    Progress,
    Rule,
)
from riemopt.solvers.structure import Structure, structure_of
from riemopt.solvers.trust_region import TrustRegion

METHODS: dict[str, type[Any]] = {
    "lbfgs": LBFGS,
    "cg": ConjugateGradient,
    "gradient": BarzilaiBorwein,
    "arc": ARC,
    "trust-region": TrustRegion,
    "levenberg-marquardt": LevenbergMarquardt,
    "nelder-mead": NelderMead,
    "particle-swarm": ParticleSwarm,
}
"""The methods by name; their options are the fields of the classes."""


@dataclass(frozen=True)
class Common:
    """Options that all methods take.

    Args:
        maxiter: iterations.
        maxfev: calls of the cost, of each problem.
        maxtime: seconds.
        gtol: stop at this gradient norm, too, whatever the scale of the cost.
        stop: a rule to stop at, too.
        disp: show progress in one line on stderr.
    """

    maxiter: int = 10_000
    maxfev: int | None = None
    maxtime: float | None = None
    gtol: float = 0.0
    stop: Rule | None = None
    disp: bool = False

    def __post_init__(self) -> None:
        for name in ("maxiter", "maxfev", "maxtime", "gtol"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative; got {value!r}.")

    def limits(self) -> Rule:
        """Where to stop though no minimum is found; or where the user's rule says so."""
        rule: Rule = MaxIterations(self.maxiter)
        if self.stop is not None:
            rule = self.stop | rule
        if self.maxfev is not None:
            rule |= MaxEvaluations(self.maxfev)
        if self.maxtime is not None:
            rule |= MaxTime(self.maxtime)
        return rule


def minimize(
    fun: Callable[..., Tensor],
    x0: Any,
    manifold: Any = None,
    *,
    method: str | Method = "lbfgs",
    tol: float | None = None,
    options: Mapping[str, Any] | None = None,
    callback: Callable[[Iterate], Any] | None = None,
    batch_ndim: int = 0,
    constraints: Any = (),
) -> Result:
    """The point of a manifold where `fun` is smallest, nearby; as `scipy.optimize.minimize`.

        result = minimize(lambda x: x @ A @ x, x0, Sphere())
        minimize(lambda p: loss(p["R"], p["t"]), {"R": R0, "t": t0},
                 {"R": SpecialOrthogonal(), "t": Euclidean()})
        minimize(lambda: loss(model(data), target), model)

    For costs that are deterministic and smooth: all the data in each call. Gradients are those of
    autograd. `fun` is minimised; to maximise, return the negative.

    Args:
        fun: the cost: of a point in the form of `x0`, a tensor with one real number. Of a module
            it takes no argument.
        x0: where to begin, not changed: a tensor, a tuple or dict of tensors, or a module, all of
            whose parameters that require gradients are the point, each on the manifold to which it
            is constrained; they are moved to the minimum.
        manifold: that of `x0`, or a tuple or dict of those of its tensors. None: that of a
            `ManifoldParameter`, or none, as of any other tensor.
        method: "lbfgs" for most; "trust-region" and "arc" for many digits and ill-conditioned
            problems, by second derivatives, which leave saddle points; "cg" and "gradient" for
            points of which a dozen copies would not fit into memory; "levenberg-marquardt" where
            `fun` returns residuals, of which half the sum of squares is minimised; "nelder-mead"
            and "particle-swarm" without gradients. Or one of their classes in `riemopt.solvers`,
            with its options.
        tol: stop where the gradient norm has fallen to this part of its scale, see
            `riemopt.solvers.GradientNorm`. None for eps^0.6: 4e-10 in float64. Of methods without
            gradients their `ftol`.
        options: those of the method, and `maxiter`, `maxfev`, `maxtime`, `gtol`, `stop`, `disp`.
        callback: called with an `Iterate` after each iteration; it stops where that returns True
            or raises StopIteration.
        batch_ndim: 1 where the first dimension of each tensor of `x0` numbers independent problems,
            of which `fun` returns one cost each. Each has its own steps and stops by itself.
        constraints: equations and inequalities beside the manifold, as SciPy's: a dict
            {"type": "eq" or "ineq", "fun": c} for c(x) = 0 or c(x) ≥ 0, an object with `fun`, `lb`
            and `ub`, or a list of those; c returns a tensor of any shape. The subproblems of an
            augmented Lagrangian are solved by `method`; `options` may hold `ctol`, the violation
            allowed, and `penalty`, its first weight.

    Returns:
        A `Result`; with constraints a `ConstrainedResult`, which has their multipliers.

    Raises:
        ValueError, TypeError: a start that is off its manifold or where the cost is not finite; a
            cost that is not one real number, or does not depend on the point by autograd; an
            option that is unknown, or not one of this method.

    Examples:
        >>> import torch
        >>> from riemopt import minimize
        >>> from riemopt.manifolds import Sphere
        >>> A = torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64))
        >>> x0 = Sphere().random_point(5, dtype=torch.float64)
        >>> result = minimize(lambda x: x @ A @ x, x0, Sphere())
        >>> result.success, round(result.fun, 9)  # the smallest eigenvalue
        (True, 1.0)
    """
    if constraints:
        if batch_ndim:
            raise ValueError("Constraints are for one problem; call minimize for each.")
        return minimize_constrained(
            minimize,
            fun,
            x0,
            manifold,
            bounds_of(constraints),
            method=method,
            tol=tol,
            options=dict(options or {}),
            callback=callback,
        )
    chosen, common = _read_options(method, dict(options or {}))
    structure = structure_of(fun, x0, manifold, batch_ndim)
    name = method if isinstance(method, str) else type(method).__name__
    with _restoring(structure), np.errstate(all="ignore"):
        kind = chosen.problem
        if not kind.has_gradient:
            chosen, tol = _by_values(chosen, tol, common)
        run = _Run(structure, batch_ndim, common, tol, callback, kind)
        return run.to_the_end(chosen, name)


@contextlib.contextmanager
def _restoring(structure: Structure) -> Iterator[None]:
    try:
        yield
    except BaseException:
        structure.restore()
        raise


class _Run:
    """One call of `minimize`."""

    def __init__(
        self,
        structure: Structure,
        batch_ndim: int,
        common: Common,
        tol: float | None,
        callback: Callable[[Iterate], Any] | None,
        kind: type[Problem],
    ) -> None:
        self.structure, self.common, self.callback = structure, common, callback
        self.points = Points(structure.tensors, structure.manifolds, batch_ndim)
        self.problem = kind(structure, self.points)
        self.small_gradient = GradientNorm(tol, common.gtol)
        self.limits = common.limits()
        batch = self.points.batch
        self.nit = np.zeros(batch, dtype=np.int64)
        self.active: Mask = np.ones(batch, dtype=bool)
        self.status = np.zeros(batch, dtype=np.int64)
        self.message: NDArray[np.object_] = np.full(batch, "", dtype=object)
        self.history: list[Row] = []
        self.begin = clock.perf_counter()

    def to_the_end(self, method: Method, name: str) -> Result:
        x = self.points.pack(self.structure.tensors)
        self._check_start(x)
        self.problem.keeps_graph = method.second_order
        here = start = previous = self.problem.evaluate(x)
        self._check_values(start)
        self.final = start
        self.problem.note(start)
        stepper = method.start(self.problem, start)
        self._record(here, {})
        stuck = np.zeros_like(self.active)
        while True:
            self._stop(self._progress(here, start, previous), stuck, stepper)
            if not self.active.any():
                break
            move = stepper.step(here, self.active)
            previous = here
            # Problems that are done may go along: their end is kept.
            here = choose(move.moved | ~self.active, move.there, here)
            stuck = move.stuck
            self.nit += self.active
            self.problem.note(here)
            self._record(here, move.columns)
        if self.common.disp:
            print(file=sys.stderr)
        return self._result(self.final, name)

    def _check_start(self, x: Tensor) -> None:
        for i, violation, allowed in self.points.off_manifold(x):
            name, m = self.structure.names[i], self.structure.manifolds[i]
            raise ValueError(
                f"{name} is not a point of {m}: its violation is {violation:.1e}, where "
                f"{allowed:.1e} is allowed. Start from manifold.project({name}) or "
                "manifold.random_point(*shape)."
            )

    def _check_values(self, start: Evaluation) -> None:
        bad = ~np.isfinite(start.value)
        if bad.any():
            which = "" if not bad.ndim else f" of problems {np.flatnonzero(bad)[:5].tolist()}"
            raise ValueError(
                f"The cost{which}, or its gradient, is not finite at the start. Start from a point "
                "where it is; a root or a logarithm at 0 has no finite derivative."
            )

    def _progress(self, here: Evaluation, start: Evaluation, previous: Evaluation) -> Progress:
        return Progress(
            self.nit, self.problem.nfev, self._time(), here, start, previous, self.points.eps
        )

    def _time(self) -> float:
        return clock.perf_counter() - self.begin

    def _stop(self, progress: Progress, stuck: Mask, stepper: Stepper) -> None:
        """Freeze the problems that are done, each with its reason."""
        self.problem.small = self.small_gradient.bound(progress)
        small = self.active & (progress.here.norm <= self.problem.small)
        limit = self.active & self.limits.met(progress)
        if (small & ~limit).any():
            small &= limit | stepper.confirms(progress.here, small & ~limit)
        for mask, reason in (
            (small, self.small_gradient.reason),
            (limit, self.limits.reason),
            (_unbounded(progress), _falls_without_end),
            (stuck, _is_stuck if not stepper.converged else lambda *_: (stepper.converged, 0)),
        ):
            self._freeze(self.active & mask, progress, reason)
        if self.active.any() and self._called_back(progress):
            self._freeze(self.active, progress, lambda *_: ("Stopped by the callback", 4))

    def _freeze(
        self,
        mask: Mask,
        progress: Progress,
        reason: Callable[[Progress, tuple[int, ...]], tuple[str, int]],
    ) -> None:
        if mask.any():
            for i in map(tuple, np.argwhere(mask)):
                self.message[i], self.status[i] = reason(progress, i)
            self.final = choose(mask, progress.here, self.final)
            self.active = self.active & ~mask

    def _called_back(self, progress: Progress) -> bool:
        if self.callback is None or not self.history or not progress.nit.any():
            return False
        x = where(self.active, progress.here.x, self.final.x)
        row = self.history[-1]
        iterate = Iterate(self._x(x), row["fun"], row["grad_norm"], row["nit"], row)
        try:
            return self.callback(iterate) is True
        except StopIteration:
            return True

    def _x(self, x: Tensor) -> Any:
        return self.structure.result([t.clone() for t in self.points.unpack(x)])

    def _record(self, here: Evaluation, columns: dict[str, Any]) -> None:
        counters = self.problem
        row = {
            "nit": self.nit,
            "fun": np.where(self.active, here.value, self.final.value),
            "grad_norm": np.where(self.active, here.norm, self.final.norm),
            "nfev": counters.nfev,
            "njev": counters.njev,
            "nhev": counters.nhev,
            **columns,
        }
        self.history.append({k: _plain(v) for k, v in row.items()} | {"time": self._time()})
        if self.common.disp:
            print(f"\r{_line(here, self.nit, self.active)}", end="", file=sys.stderr, flush=True)

    def _result(self, here: Evaluation, name: str) -> Result:
        p = self.problem
        numbers = {
            "fun": here.value,
            "grad_norm": here.norm,
            "nit": self.nit,
            "nfev": p.nfev,
            "njev": p.njev,
            "nhev": p.nhev,
            "success": self.status == 0,
            "status": self.status,
            "message": self.message,
        }
        plain = {k: _plain(v) for k, v in numbers.items()}
        return Result(
            x=self._x(here.x), time=self._time(), method=name, history=self.history, **plain
        )


def _unbounded(progress: Progress) -> Mask:
    """Where the cost has fallen so far that its start is lost to rounding, twice over."""
    size = np.maximum(1, np.abs(progress.start.value))
    return np.asarray(progress.here.value < -size / progress.eps**2)


def _falls_without_end(progress: Progress, i: tuple[int, ...]) -> tuple[str, int]:
    value = progress.here.value[i]
    text = f"The cost falls without end: it is {value:.2e}. Is its sign right? It is minimised; "
    return f"{text}to maximise, return the negative", 3


def _is_stuck(progress: Progress, i: tuple[int, ...]) -> tuple[str, int]:
    norm = progress.here.norm[i]
    text = "No step lowers the cost any more: what is left is rounding, or the gradient is not "
    return f"{text}that of the cost. Its norm is {norm:.2e}", 2


def _plain(value: Any) -> Any:
    """A copy of an array; of one without dimensions its number; a list of texts."""
    if not isinstance(value, np.ndarray | np.generic):
        return value
    if value.dtype == object or value.ndim == 0:
        return value.tolist()
    return value.copy()


def _line(here: Evaluation, nit: NDArray[np.int64], active: Mask) -> str:
    """Progress in one line, of a batch that of the problem with the largest gradient."""
    norms = np.where(active, here.norm, -np.inf) if active.any() else here.norm
    worst = np.unravel_index(np.argmax(norms), here.norm.shape)
    left = f"  {int(active.sum())} of {active.size} problems left" if active.ndim else ""
    return (
        f"iteration {int(nit.max()):6d}  cost {here.value[worst]: .10e}  "
        f"gradient {here.norm[worst]:.2e}{left}"
    )


# --- options -----------------------------------------------------------------------------------


def _read_options(method: str | Method, options: dict[str, Any]) -> tuple[Method, Common]:
    """The method with its options, and those of all methods."""
    names = {f.name for f in dataclasses.fields(Common)}
    common = Common(**{k: options.pop(k) for k in names & set(options)})
    if not isinstance(method, str):
        if not isinstance(method, Method):
            raise TypeError(
                f"method must be a name or a method, such as LBFGS(); got {method!r}. Names are "
                f"{', '.join(map(repr, METHODS))}."
            )
        if options:
            raise ValueError(
                f"The options of a method that is given as a value are its own: {method!r}; got "
                f"{sorted(options)} as well."
            )
        return method, common
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}{_like(method, METHODS)}.")
    cls = METHODS[method]
    known = [f.name for f in dataclasses.fields(cls)]
    for option in options:
        if option not in known:
            raise ValueError(_unknown(option, method, [*known, *sorted(names)]))
    return cls(**options), common


def _by_values(method: Any, tol: float | None, common: Common) -> tuple[Method, None]:
    """Of a method without gradients `tol` is the spread of values at which it stops."""
    if common.gtol:
        raise ValueError(
            f"gtol={common.gtol!r} is a gradient norm, of which {type(method).__name__} knows "
            "nothing; give tol, a spread of values."
        )
    return method if tol is None else dataclasses.replace(method, ftol=tol), None


def _unknown(option: str, method: str, known: list[str]) -> str:
    others = [n for n, c in METHODS.items() if option in {f.name for f in dataclasses.fields(c)}]
    if others:
        owners = ", ".join(repr(n) for n in others)
        return f"{option!r} is an option of {owners}, not of {method!r}, which takes {known}."
    return f"{method!r} has no option {option!r}{_like(option, known)}."


_ELSEWHERE = {
    "l-bfgs-b": "lbfgs",
    "bfgs": "lbfgs",
    "rlbfgs": "lbfgs",
    "rtr": "trust-region",
    "trust-ncg": "trust-region",
    "newton-cg": "trust-region",
    "trust_region": "trust-region",
    "rcg": "cg",
    "rsd": "gradient",
    "sd": "gradient",
    "bb": "gradient",
    "xtol": "stop",
    "ftol": "stop",
    "max_iterations": "maxiter",
    "max_time": "maxtime",
    "min_gradient_norm": "gtol",
    "verbosity": "disp",
    "max_cost_evaluations": "maxfev",
}
"""Names that SciPy, Manopt and pymanopt have for what is here."""


def _like(name: str, known: Any) -> str:
    other = _ELSEWHERE.get(name.lower())
    close = [other] if other in known else difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"{hint} Known are {', '.join(map(repr, known))}"
        if hint
        else (f"; known are {', '.join(map(repr, known))}")
    )
