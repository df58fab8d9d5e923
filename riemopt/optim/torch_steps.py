"""The first step of a constrained weight by an optimizer that is not Riemannian gives a warning.

    torch.optim.Adam(model.parameters()).step()     # OffManifoldWarning

torch calls `_before_step` before each step of any optimizer. An optimizer is looked at again when
something was constrained, or a group added, since the last time.
"""

import warnings
import weakref
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from riemopt import linalg
from riemopt.nn import table
from riemopt.nn.parameter import carried_by
from riemopt.optim.classes import riemannian_name
from riemopt.optim.off_manifold import SILENCE, OffManifoldWarning, is_euclidean
from riemopt.optim.optimizer import RiemannianOptimizer

_SHOWN = 3
"""How many weights a warning names."""

# What had been constrained, and the number of groups, when an optimizer was last looked at.
_LOOKED_AT: "weakref.WeakKeyDictionary[Optimizer, tuple[int, int]]" = weakref.WeakKeyDictionary()
_WARNED: "weakref.WeakSet[Optimizer]" = weakref.WeakSet()


@linalg.eager_only
def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if isinstance(optimizer, RiemannianOptimizer):
        return
    now = table.changes(), len(optimizer.param_groups)
    if _LOOKED_AT.get(optimizer) == now:
        return
    weights = [] if optimizer in _WARNED or _is_wrapper(optimizer) else _constrained(optimizer)
    # A closure makes the gradients in the step.
    has_closure = len(args) > 1 or kwargs.get("closure") is not None
    stepped = [(p, m) for p, m in weights if has_closure or p.grad is not None]
    if stepped:
        _WARNED.add(optimizer)
        warnings.warn(_message(optimizer, stepped), OffManifoldWarning, stacklevel=4)
    if stepped or not weights:
        _LOOKED_AT[optimizer] = now


def _is_wrapper(optimizer: Optimizer) -> bool:
    """Whether it holds another optimizer, which then steps, and is looked at itself."""
    held: list[Any] = []
    for value in vars(optimizer).values():
        values = value.values() if isinstance(value, dict) else value
        held += values if isinstance(value, list | tuple | dict) else [value]
    return any(isinstance(value, Optimizer) for value in held)


def _constrained(optimizer: Optimizer) -> list[tuple[Tensor, Any]]:
    """The parameters that it takes off a manifold, and that manifold."""
    own = {cls.__module__.partition(".")[0] for cls in type(optimizer).__mro__}
    params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    places = table.Places(params)
    found = []
    for p in params:
        theirs = getattr(p, "manifold", None)
        package = table.package_of(theirs)
        if package in own:  # it knows the manifolds of its own package
            continue
        manifold: Any = carried_by(p)
        if manifold is None and (entry := places.entry(p)) is not None:
            manifold = entry.manifold
        if manifold is None and package is not None:
            manifold = theirs
        if not is_euclidean(manifold):
            found.append((p, manifold))
    return found


def _message(optimizer: Optimizer, weights: list[tuple[Tensor, Any]]) -> str:
    named = [f"{tuple(p.shape)} on {manifold}" for p, manifold in weights[:_SHOWN]]
    more = len(weights) - len(named)
    instead = riemannian_name(type(optimizer))
    return (
        f"{type(optimizer).__name__} steps constrained weights off their manifolds: "
        f"{', '.join(named)}{f' and {more} more' if more else ''}. Use "
        f"{instead or 'a Riemannian optimizer, such as riemopt.RiemannianSGD'}, or call "
        f"riemopt.project_(model) after each step. {SILENCE}"
    )


register_optimizer_step_pre_hook(_before_step)
