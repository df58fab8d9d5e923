"""Finds problems, methods and workloads: those of this package, and those of files of your own.

A problem is a file in `problems/` that defines `PROBLEMS`, a library one in `libraries/` that
defines `METHODS`; both are found by being there. A file of your own, given with `--plugin FILE`,
may define either, and `WORKLOADS`; so may a module of an installed package, which names it as an
entry point of the group `riemopt.bench`:

    [project.entry-points."riemopt.bench"]
    mine = "my_package.my_problems"
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeVar

from riemopt_bench import libraries as libraries_package
from riemopt_bench import problems as problems_package
from riemopt_bench.interface import Method, Problem

if TYPE_CHECKING:
    from riemopt_bench.speed.workloads import Workload

FAMILIES = (
    "riemopt",
    "floor",
    "parametrize",
    "geotorch",
    "geoopt",
    "pogo",
    "landing",
    "pymanopt",
    "cdopt",
    "projection",
    "penalty",
    "unconstrained",
)
GROUP = "riemopt.bench"
T = TypeVar("T", Problem, Method)
_own: dict[Path, ModuleType] = {}


class RegistryError(Exception):
    """Something of the user's own cannot be used; the message says what and why."""


def use(files: Iterable[Path]) -> None:
    """Import files of the user's own, by the names of their modules.

    Raises:
        RegistryError: a file cannot be imported, or has the name of another module.
    """
    for path in (Path(file).resolve() for file in files):
        if path in _own:
            continue
        if str(path.parent) not in sys.path:  # processes that are started later inherit it
            sys.path.insert(0, str(path.parent))
        module = _imported(path.stem, str(path))
        if Path(str(module.__file__)).resolve() != path:
            raise RegistryError(f"{path} has the name of another module, {module.__file__}")
        _own[path] = module
        _clear()


def _imported(name: str, origin: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise RegistryError(f"{origin} cannot be imported ({text}).") from error


@functools.cache
def _entry_points() -> list[ModuleType]:
    """The modules that installed packages name as entry points."""
    found = sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name)
    return [_imported(p.module, f"the entry point {p.name!r} of {GROUP}") for p in found]


def forget() -> None:
    """Leave the user's own files out again."""
    _own.clear()
    _clear()


def _clear() -> None:
    for cached in (problems, methods, step_methods, workloads, source, _entry_points):
        cached.cache_clear()


def own_files() -> list[Path]:
    """The files given to `use`, for other processes."""
    return list(_own)


def modules(package: ModuleType) -> list[str]:
    """The names of a package's modules, but for those that begin with an underscore."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [f"{package.__name__}.{name}" for name in names if not name.startswith("_")]


def _modules(package: ModuleType) -> list[ModuleType]:
    return [*map(importlib.import_module, modules(package)), *_of_users()]


def _of_users() -> list[ModuleType]:
    return list(dict.fromkeys([*_entry_points(), *_own.values()]))


def _by_name(kind: str, found: Sequence[T]) -> dict[str, T]:
    """Named values by name; two of one name would hide each other."""
    names = Counter(value.name for value in found)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise RegistryError(f"there are two {kind}s called {twice[0]!r}; rename yours.")
    return {value.name: value for value in found}


def is_own(value: Problem | Method) -> bool:
    """Whether a problem or method comes from a file or package of the user's own."""
    return any(_defines(module, value) for module in _of_users())


@functools.cache
def problems() -> dict[str, Problem]:
    """All problems by name, those with the most surfaces first."""
    found = [p for m in _modules(problems_package) for p in getattr(m, "PROBLEMS", ())]
    found.sort(key=lambda problem: -len(problem.surfaces))
    return _by_name("problem", found)


def all_methods() -> list[Method]:
    """The methods of both benchmarks."""
    found = [method for m in _modules(libraries_package) for method in getattr(m, "METHODS", ())]
    order = {family: position for position, family in enumerate(FAMILIES)}
    return sorted(found, key=lambda method: order.get(method.family, len(order)))


@functools.cache
def methods() -> dict[str, Method]:
    """The methods of the training benchmark by name: riemopt's first, then parametrize's."""
    return _by_name("method", [method for method in all_methods() if method.grid])


@functools.cache
def step_methods() -> dict[str, Method]:
    """The methods of the step benchmark by name, in the same order."""
    return _by_name("method", [m for m in all_methods() if m.stepping is not None])


@functools.cache
def workloads() -> dict[str, Workload]:
    """The workloads of the step benchmark by name."""
    from riemopt_bench.speed.workloads import WORKLOADS

    own = [workload for module in _of_users() for workload in getattr(module, "WORKLOADS", ())]
    return WORKLOADS | {workload.name: workload for workload in own}


@functools.cache
def source(kind: Literal["problem", "method"], name: str) -> str:
    """Hash of the file that defines a problem or method, and of the shared files that it uses."""
    package = problems_package if kind == "problem" else libraries_package
    value = problems()[name] if kind == "problem" else methods()[name]
    module = next(m for m in _modules(package) if _defines(m, value))
    used = {module.__name__: module}
    for member in vars(module).values():
        home = getattr(member, "__module__", None) or ""
        if home.startswith(f"{package.__name__}._"):
            used[home] = importlib.import_module(home)
    text = "".join(inspect.getsource(used[key]) for key in sorted(used))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _defines(module: ModuleType, value: Problem | Method) -> bool:
    return value in getattr(module, "PROBLEMS", ()) or value in getattr(module, "METHODS", ())
