"""How each package solves a problem: from one start, to one gradient norm, with calls counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

import riemopt
from full_batch_problems.interface import Array, FullBatch

GRADIENT_NORM = 1e-6
"""All methods stop at this Riemannian gradient norm, as pymanopt does by default."""
ITERATIONS, SECONDS = 3000, 10.0
"""And after so many iterations, or so many seconds."""
PENALTIES = (1e1, 1e3, 1e5, 1e7)
"""Weights of SciPy's penalty, one run after the other."""


@dataclass
class Calls:
    """How often a cost, a gradient and a Hessian–vector product were asked for."""

    values: int = 0
    gradients: int = 0
    products: int = 0

    def counted(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which counts."""

        def call(*args: Any) -> Any:
            setattr(self, kind, getattr(self, kind) + 1)
            return function(*args)

        return call


@dataclass(frozen=True)
class Outcome:
    """What a method has found. A package whose calls also give the gradient counts both."""

    x: Tensor
    iterations: int
    calls: Calls = field(default_factory=Calls)


Solve = Callable[[FullBatch, Tensor], Outcome]


def ours(method: str) -> Solve:
    """`riemopt.minimize`."""

    def solve(problem: FullBatch, x0: Tensor) -> Outcome:
        options = {"gtol": GRADIENT_NORM, "maxiter": ITERATIONS, "maxtime": SECONDS}
        result = riemopt.minimize(
            problem.cost, x0, problem.manifold, method=method, tol=0.0, options=options
        )
        return Outcome(result.x, result.nit, Calls(result.nfev, result.njev, result.nhev))

    return solve


def pymanopts(name: str) -> Solve:
    """A class of `pymanopt.optimizers`, with pymanopt's torch backend."""

    def solve(problem: FullBatch, x0: Tensor) -> Outcome:
        import pymanopt

        theirs = problem.pymanopt()
        cost = pymanopt.function.pytorch(theirs.manifold)(theirs.cost)
        posed, calls = pymanopt.Problem(theirs.manifold, cost), Calls()
        # Properties of the class, made when they are first asked for.
        gradient, hessian = posed.euclidean_gradient, posed.euclidean_hessian
        posed._cost = calls.counted("values", posed.cost)
        posed._euclidean_gradient = calls.counted("gradients", gradient)
        posed._euclidean_hessian = calls.counted("products", hessian)
        optimizer = getattr(pymanopt.optimizers, name)(
            verbosity=0,
            min_gradient_norm=GRADIENT_NORM,
            max_iterations=ITERATIONS,
            max_time=SECONDS,
            max_cost_evaluations=10**9,
        )
        result = optimizer.run(posed, initial_point=theirs.point(x0.numpy()))
        x = np.ascontiguousarray(theirs.back(result.point))
        return Outcome(torch.from_numpy(x), result.iterations, calls)

    return solve


def geoopts(problem: FullBatch, x0: Tensor) -> Outcome:
    """geoopt's conjugate gradients with its line search."""
    import geoopt
    from geoopt.optim.rlinesearch import RiemannianLineSearch

    assert problem.geoopt is not None
    manifold, calls = problem.geoopt(), Calls()
    x = geoopt.ManifoldParameter(x0.clone(), manifold=manifold)
    optimizer = RiemannianLineSearch([x], cg_method="pr")
    cost = calls.counted("values", problem.cost)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = cost(x)
        if torch.is_grad_enabled():
            calls.gradients += 1
            value.backward()
        return value.detach()

    begin, iterations = time.perf_counter(), 0
    while iterations < ITERATIONS and time.perf_counter() - begin < SECONDS:
        optimizer.step(closure)
        iterations += 1
        grad = manifold.egrad2rgrad(x.detach(), x.grad)
        if float(torch.linalg.vector_norm(grad)) <= GRADIENT_NORM:
            break
        if optimizer.last_step_size is None:  # no step was found; the next one is the same
            break
    return Outcome(x.detach(), iterations, calls)


def scipys(problem: FullBatch, x0: Tensor) -> Outcome:
    """SciPy's L-BFGS-B on the cost and a quadratic penalty, ever larger; projected at the end."""
    defect, calls, iterations = problem.defect, Calls(), 0
    assert defect is not None
    x = x0.numpy().ravel()
    for weight in PENALTIES:

        def fun(v: Array, weight: float = weight) -> tuple[float, Array]:
            calls.values += 1
            calls.gradients += 1
            leaf = torch.from_numpy(v).reshape(x0.shape).clone().requires_grad_()
            value = problem.cost(leaf) + weight * defect(leaf)
            (g,) = torch.autograd.grad(value, leaf)
            return float(value.detach()), g.numpy().ravel()

        found = scipy.optimize.minimize(
            fun,
            x,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": ITERATIONS, "gtol": GRADIENT_NORM, "ftol": 1e-15, "maxfun": 10000},
        )
        x, iterations = found.x, iterations + found.nit
    projected = problem.manifold.project(torch.from_numpy(x).reshape(x0.shape))
    return Outcome(projected, iterations, calls)


def methods_for(problem: FullBatch) -> dict[str, Solve]:
    """Those that the problem can be posed to."""
    found = {f"riemopt {name}": ours(name) for name in ("lbfgs", "trust-region", "cg")}
    optimizers = {"CG": "ConjugateGradient", "TR": "TrustRegions", "SD": "SteepestDescent"}
    found |= {f"pymanopt {short}": pymanopts(name) for short, name in optimizers.items()}
    if problem.geoopt is not None:
        found["geoopt line search"] = geoopts
    if problem.defect is not None:
        found["SciPy with a penalty"] = scipys
    return found
