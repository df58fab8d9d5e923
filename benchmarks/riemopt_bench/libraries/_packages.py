"""Methods of packages that need not be installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from riemopt_bench.interface import Case, Skip


def needs(module: str, check: Callable[[Case], None]) -> Callable[[Case], None]:
    """The check, after one that raises `Skip` where that module is not installed."""

    def both(case: Case) -> None:
        if importlib.util.find_spec(module) is None:
            raise Skip(f"{module} is not installed; `pip install 'riemopt[bench]'` has it")
        check(case)

    return both


def needs_one_function(case: Case) -> None:
    """A check for solvers, which minimise one function of the weights."""
    if not case.full_batch:
        raise Skip("the batch changes from step to step, so there is no one function to minimise")
