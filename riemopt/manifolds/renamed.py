"""Names of the contract in version 0.1: manifolds and calls that use them still work, and warn."""

import warnings
from typing import Any

RENAMED = {
    "anchored": "with_dims_from_end",
    "at": "linearised_at",
    "attempt": "curve_with_fraction",
    "average": "carry_mean",
    "is_linear": "allows_elementwise_scaling",
}
"""Old names of methods and properties, and the present ones, which do the same."""

_warned: set[tuple[str, str]] = set()


def adopt_overrides(cls: type) -> None:
    """Give what a class overrides by an old name its present name. Called for each new class."""
    for old, new in RENAMED.items():
        if old in vars(cls) and new not in vars(cls):
            _warn_once(cls.__name__, old, new, stacklevel=5)  # past that of ABCMeta
            setattr(cls, new, vars(cls)[old])


def by_old_name(manifold: Any, name: str) -> Any:
    """The attribute that is called `name` no more. Raises KeyError where none was."""
    _warn_once(type(manifold).__name__, name, RENAMED[name], stacklevel=4)
    return getattr(manifold, RENAMED[name])


def _warn_once(owner: str, old: str, new: str, *, stacklevel: int) -> None:
    if (owner, old) not in _warned:
        _warned.add((owner, old))
        message = f"{owner}.{old} is called {new} since riemopt 0.2."
        warnings.warn(message, FutureWarning, stacklevel=stacklevel)
