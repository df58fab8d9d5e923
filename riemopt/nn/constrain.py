"""How a user says that a weight lies on a manifold.

constrain(model.fc, "weight", Stiefel())                    # an existing parameter
constrain(pose, {"rotation": Stiefel(), "scale": Sphere()}) # several: all, or none
self.w = ManifoldParameter(torch.randn(256, 64), Stiefel()) # a new one

manifold_of(model.fc.weight)    # Stiefel()
constraints(model)              # name, manifold and violation of each constrained weight
project_(model)                 # put back what was loaded or edited off its surface
unconstrain(model.fc, "weight")
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from riemopt.distributed.dtensor import assign_whole_, whole
from riemopt.manifolds import Manifold
from riemopt.nn import table
from riemopt.nn.admission import check_moves, check_value, parameter_of, placed, require_module
from riemopt.nn.parameter import ManifoldParameter, carried_by, unmark
from riemopt.nn.registration import adopt, tables_in, whole_table
from riemopt.nn.table import manifold_of

__all__ = [
    "Constraint",
    "ManifoldParameter",
    "constrain",
    "constraints",
    "manifold_of",
    "project_",
    "unconstrain",
]


@overload
def constrain(
    module: nn.Module, name: str, manifold: Manifold, *, tangent_grad: bool = False
) -> nn.Module: ...


@overload
def constrain(
    module: nn.Module, name: Mapping[str, Manifold], *, tangent_grad: bool = False
) -> nn.Module: ...


def constrain(
    module: nn.Module,
    name: str | Mapping[str, Manifold],
    manifold: Manifold | None = None,
    *,
    tangent_grad: bool = False,
) -> nn.Module:
    """Put the parameter `name` of `module` on `manifold`, and keep it there; or several.

        constrain(layer, "weight", Stiefel())
        constrain(pose, {"rotation": Stiefel(), "scale": Sphere()})

    The same shape of call as `torch.nn.utils.parametrize.register_parametrization`. The value is
    moved, in place, to the nearest point of the manifold; the Parameter object stays the same, so
    that optimizers and tied weights keep working. A Riemannian optimizer finds the constraint
    whether it is built before or after this call. Of several, none is changed if one is refused.

    The padding row of an `nn.Embedding` stays as it is: its weight is put on `ExceptRows(manifold,
    …)`. Points that are slices of a convolution kernel must be asked for by their dimensions.

    Args:
        module: the module that owns the parameter.
        name: its name there, without dots; or names and their manifolds.
        manifold: an instance, such as `Stiefel()`.
        tangent_grad: as in `ManifoldParameter`.

    Returns:
        `module`.

    Raises:
        AttributeError: `module` has no such parameter of its own.
        TypeError: `manifold` is not an instance of `Manifold`, or arguments are swapped.
        ValueError: already constrained, wrong shape, integer dtype, or a value that is not finite;
            the layer would take other points than are meant, or no step could move them.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from riemopt import RiemannianAdam, constrain, constraints
        >>> from riemopt.manifolds import Stiefel
        >>> model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 5))
        >>> _ = constrain(model[0], "weight", Stiefel())
        >>> optimizer = RiemannianAdam(model.parameters(), lr=1e-2)
        >>> model(torch.randn(32, 20)).square().mean().backward()
        >>> optimizer.step()
        >>> [(c.name, c.manifold, c.satisfied) for c in constraints(model)]
        [('0.weight', Stiefel(), True)]
    """
    if not isinstance(name, str | Mapping):
        parameter_of(module, name)  # raises
    if not isinstance(name, Mapping):
        chosen: dict[str, Any] = {name: manifold}
    elif manifold is None:
        chosen = dict(name)
    else:
        raise TypeError(f"A dict says which manifold each name has; got {manifold!r} as well.")
    admitted = {key: _admit(module, key, m) for key, m in chosen.items()}
    params = {key: param for key, (param, _) in admitted.items()}
    chosen = {key: placed_on for key, (_, placed_on) in admitted.items()}
    _refuse_contradiction(module, chosen, params)
    points = {key: _point(param, chosen[key]) for key, param in params.items()}
    for key, param in params.items():
        _assign(param, points[key])
        adopt(module, key, table.Entry(chosen[key], tangent_grad), param)
    for key, param in params.items():
        table.announce(param, chosen[key])
    return module


def _admit(module: nn.Module, name: str, manifold: Manifold) -> tuple[Tensor, Manifold]:
    """The parameter, if it can be put on the manifold, and the manifold as it holds of it."""
    param = parameter_of(module, name)
    entries = table.table_of(module)
    if entries is not None and name in entries:
        raise ValueError(
            f"{name!r} of {type(module).__name__} is already on {entries[name].manifold}; "
            "call riemopt.unconstrain(module, name) first."
        )
    try:
        check_value(param, manifold)
        manifold = placed(module, name, param, manifold)
        check_moves(param, manifold)
        manifold = manifold.fitted_to(whole(param.detach()))
    except (TypeError, ValueError) as error:
        error.args = (f"{name!r} of {type(module).__name__}: {error}",)
        raise
    return param, manifold


def _refuse_contradiction(
    module: nn.Module, chosen: Mapping[str, Manifold], params: Mapping[str, Tensor]
) -> None:
    """Raise `ValueError` where one parameter, under this name or another, has two manifolds."""
    found: dict[int, Manifold] = {}
    for name, param in params.items():
        known = found.get(id(param)) or carried_by(param)
        tied = known or table.converted(getattr(param, "manifold", None)) or chosen[name]
        found[id(param)] = tied
        if tied != chosen[name]:
            raise ValueError(
                f"{name!r} of {type(module).__name__} is tied to a parameter on {tied} and cannot "
                f"be on {chosen[name]} too."
            )


def unconstrain(module: nn.Module, name: str) -> nn.Module:
    """Release the parameter `name` of `module`; its value stays. Returns `module`.

    A tied parameter is released in all modules that have it.

    Raises:
        ValueError: it is not constrained.

    Examples:
        >>> import torch, riemopt
        >>> layer = riemopt.constrain(torch.nn.Linear(4, 8), "weight", riemopt.manifolds.Sphere())
        >>> riemopt.constraints(riemopt.unconstrain(layer, "weight"))
        []
    """
    require_module(module)
    entries = table.table_of(module)
    if entries is None or name not in entries:
        entries = whole_table(module, table.Places(module.parameters(recurse=False)))
    if entries is None or name not in entries:
        raise ValueError(_not_constrained(module, name))
    param, released = entries.parameter(name), entries[name].manifold
    params = entries.renamed(name) if param is None else [param]
    entries.remove(name)
    places = table.Places(params)
    for p in params:
        _release(p, released, places.of(p))
    return module


def _not_constrained(module: nn.Module, name: str) -> str:
    """What to say of a name that `unconstrain` does not find."""
    found = [(prefix[:-1], n) for prefix, _, entries in tables_in(module) for n in entries]
    here = sorted(n for owner, n in found if not owner)
    message = f"{name!r} of {type(module).__name__} is not constrained; constrained here: {here}."
    for owner, n in found:
        if owner and name in (n, f"{owner}.{n}"):
            return f"{message} Call unconstrain(model.get_submodule({owner!r}), {n!r})."
    return message


def _release(param: Tensor, manifold: Manifold, places: list[table.Place]) -> None:
    """Take `param` off `manifold`, wherever it is said to lie there."""
    if carried_by(param) in (None, manifold):
        unmark(param)
    left = carried_by(param)
    for entries, name in places:
        if entries[name].manifold == manifold:
            entries.remove(name)
        else:
            left = entries[name].manifold
    table.announce(param, left)


class Constraint(NamedTuple):
    """One constrained weight of a model, as `constraints` reports it.

    Examples:
        >>> import torch, riemopt
        >>> layer = riemopt.constrain(torch.nn.Linear(4, 8), "weight", riemopt.manifolds.Sphere())
        >>> found = riemopt.constraints(layer)[0]
        >>> found.name, found.manifold, found.satisfied
        ('weight', Sphere(), True)
    """

    name: str
    """Qualified name of the parameter."""
    manifold: Manifold
    violation: float
    """Of the point for which it is largest as a multiple of the tolerance; NaN on `meta`."""
    tolerance: float
    """What rounding explains at that point: `Manifold.tolerance`."""

    @property
    def satisfied(self) -> bool:
        """Whether the violation is within rounding."""
        return self.violation <= self.tolerance


def constraints(model: nn.Module) -> list[Constraint]:
    """Every constrained weight of `model` and its submodules, with its violation now.

    Tied weights are named once, as in `model.named_parameters()`. Synchronises on an accelerator,
    and gathers what is spread over processes, all of which must call it.

    Raises:
        LostManifoldError: a constrained name is not a parameter any more.
        ValueError: the padding row of a table is constrained, through a layer tied to it.

    Examples:
        >>> import torch, riemopt
        >>> layer = riemopt.constrain(torch.nn.Linear(4, 8), "weight", riemopt.manifolds.Sphere())
        >>> with torch.no_grad():
        ...     _ = layer.weight.mul_(2)  # off the sphere
        >>> [(c.name, f"{c.violation:.1f}", c.satisfied) for c in riemopt.constraints(layer)]
        [('weight', '1.0', False)]
    """
    report = []
    for name, param, manifold in _constrained(model):
        violation, tolerance = _measure(whole(param.detach()), manifold)
        report.append(Constraint(name, manifold, violation, tolerance))
    return report


@torch.no_grad()
def project_(model: nn.Module) -> nn.Module:
    """Move every constrained weight of `model`, in place, to the nearest point of its manifold.

    For weights that were loaded, averaged or edited off their surface. A weight that satisfies its
    constraint to rounding already is left as it is, bit for bit. What is spread over processes is
    gathered; all of them must call it. Returns `model`.

    Raises:
        ValueError: a weight is not finite, or has no nearest point, or is a table whose padding row
            is constrained through a layer tied to it; none has been changed then.
        LostManifoldError: a constrained name is not a parameter any more.

    Examples:
        >>> import torch, riemopt
        >>> layer = riemopt.constrain(torch.nn.Linear(4, 8), "weight", riemopt.manifolds.Sphere())
        >>> with torch.no_grad():
        ...     _ = layer.weight.mul_(2)  # off the sphere
        >>> riemopt.constraints(riemopt.project_(layer))[0].satisfied
        True
    """
    found = [(name, p, manifold) for name, p, manifold in _constrained(model) if not p.is_meta]
    for name, param, manifold in found:
        check_value(whole(param), manifold, name)
    moved = []
    for _, param, manifold in found:
        violation, tolerance = _measure(whole(param.detach()), manifold)
        if not violation <= tolerance:
            moved.append((param, _point(param, manifold)))
    for param, point in moved:
        _assign(param, point)
    return model


def _constrained(model: nn.Module) -> list[tuple[str, Tensor, Manifold]]:
    require_module(model)
    found: dict[int, tuple[str, Tensor, Manifold]] = {}
    for prefix, _, entries in tables_in(model):
        for name in entries:
            param = entries.parameter(name)
            if param is not None:
                found.setdefault(id(param), (prefix + name, param, entries[name].manifold))
            elif entries.is_lost(name):
                raise table.LostManifoldError(
                    f"{prefix + name} was constrained to {entries[name].manifold} and is not a "
                    "parameter any more. Call riemopt.unconstrain on it, or restore it."
                )
    return list(found.values())


def _measure(x: Tensor, manifold: Manifold) -> tuple[float, float]:
    if x.is_meta:
        return math.nan, math.nan
    if x.numel() == 0:
        return 0.0, 0.0
    violation, tolerance = manifold.violation(x).flatten(), manifold.tolerance(x).flatten()
    worst = (violation / tolerance).argmax()
    return violation[worst].item(), tolerance[worst].item()


@torch.no_grad()
def _point(param: Tensor, manifold: Manifold) -> Tensor | None:
    """The point nearest to the value; None on `meta`, where there is none."""
    return None if param.is_meta else manifold.project(whole(param.detach()))


@torch.no_grad()
def _assign(param: Tensor, point: Tensor | None) -> None:
    if point is not None:
        assign_whole_(param, point)
