"""riemopt's full-batch methods: L-BFGS as an optimizer, and `riemopt.minimize`.

They find the lengths of their steps themselves, so there is no learning rate to tune.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

import riemopt
from riemopt_bench.interface import Attached, Case, Method, Observe, Task, all_surfaces
from riemopt_bench.libraries._packages import needs_one_function
from riemopt_bench.libraries._riemopt import constrain_all, manifold

ITERATIONS = 10  # of L-BFGS, in one call of `step`


def attach_lbfgs(task: Task, lr: float) -> Attached:
    """`RiemannianLBFGS`, whose closure is called as often as its line search wants."""
    constrain_all(task)
    optimizer = riemopt.RiemannianLBFGS(
        task.model.parameters(),
        lr=lr,
        max_iter=ITERATIONS,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def solve(observe: Observe) -> None:
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            return observe.evaluate()

        while observe():
            before = calls
            optimizer.step(closure)
            if calls == before + 1:  # no step was taken, and none will be
                observe()
                return

    return Attached.to_stored_weights(task, optimizer, solve=solve)


def attach_minimize(task: Task, lr: float, *, solver: str) -> Attached:
    """`riemopt.minimize`, with a callback that hands each iterate to the runner.

    A Hessian–vector product counts as a step of the budget, as a call of the cost does.
    """
    constrain_all(task)

    def solve(observe: Observe) -> None:
        if not observe():
            return
        batch, told = observe.batch, 0

        def tell(loss: float, spent: int) -> bool:
            nonlocal told
            for _ in range(spent - told):
                observe.tell(torch.tensor(loss, dtype=torch.float64))
            told = spent
            return observe()

        result = riemopt.minimize(
            lambda: task.loss(task.model, batch),
            task.model,
            method=solver,
            options={"maxiter": 10**9},
            callback=lambda now: not tell(now.fun, now.row["nfev"] + now.row["nhev"]),
        )
        if result.nfev + result.nhev > told:  # where it converges, it does not call back
            tell(result.fun, result.nfev + result.nhev)

    return Attached.to_stored_weights(task, None, solve=solve)


def _check(case: Case) -> None:
    needs_one_function(case)
    all_surfaces(manifold)(case)


def _method(name: str, title: str, description: str, attach: Callable[..., Attached]) -> Method:
    return Method(
        name,
        title,
        "riemopt",
        description,
        attach,
        _check,
        grid=(1.0,),
        packages=("torch", "riemopt"),
    )


METHODS = (
    _method(
        "riemopt-lbfgs",
        "riemopt L-BFGS",
        "riemopt.RiemannianLBFGS with its strong Wolfe line search (Huang, Gallivan & Absil 2015).",
        attach_lbfgs,
    ),
    _method(
        "riemopt-trust-region",
        "riemopt trust region",
        'riemopt.minimize(method="trust-region"): Newton steps by conjugate gradients '
        "(Absil, Baker & Gallivan 2007).",
        functools.partial(attach_minimize, solver="trust-region"),
    ),
    _method(
        "riemopt-cg",
        "riemopt CG",
        'riemopt.minimize(method="cg"): nonlinear conjugate gradients.',
        functools.partial(attach_minimize, solver="cg"),
    ),
)
