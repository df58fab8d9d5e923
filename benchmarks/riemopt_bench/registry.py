"""Finds problems and methods: whatever lies in `problems/` and `methods/`."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

from riemopt_bench import methods as methods_package
from riemopt_bench import problems as problems_package
from riemopt_bench.interface import Method, Problem


def _modules(package: ModuleType) -> list[ModuleType]:
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [
        importlib.import_module(f"{package.__name__}.{name}")
        for name in names
        if not name.startswith("_")
    ]


@functools.cache
def problems() -> dict[str, Problem]:
    """All problems by name, those with the most kinds of constraints first."""
    found = [module.PROBLEM for module in _modules(problems_package)]
    found.sort(key=lambda problem: -len(problem.kinds))
    return {problem.name: problem for problem in found}


@functools.cache
def methods() -> dict[str, Method]:
    """All methods by name: riemopt first, then parametrize, then the rest."""
    families = ("riemopt", "parametrize", "geoopt", "projection", "unconstrained")
    found = [method for module in _modules(methods_package) for method in module.METHODS]
    found.sort(key=lambda method: families.index(method.family))
    return {method.name: method for method in found}


@functools.cache
def source(kind: str, name: str) -> str:
    """Hash of the file that defines a problem or method, and of the shared files that it uses."""
    package = problems_package if kind == "problem" else methods_package
    value: Any = problems()[name] if kind == "problem" else methods()[name]
    module = next(m for m in _modules(package) if _defines(m, value))
    used = {module.__name__: module}
    for member in vars(module).values():
        home = getattr(member, "__module__", None) or ""
        if home.startswith(f"{package.__name__}._"):
            used[home] = importlib.import_module(home)
    text = "".join(inspect.getsource(used[key]) for key in sorted(used))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _defines(module: ModuleType, value: Problem | Method) -> bool:
    return value is getattr(module, "PROBLEM", None) or value in getattr(module, "METHODS", ())
