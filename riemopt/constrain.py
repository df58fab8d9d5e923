"""How a user says that a weight lies on a manifold.

constrain(model.fc, "weight", Stiefel())                    # an existing parameter
self.w = ManifoldParameter(torch.randn(256, 64), Stiefel()) # a new one

manifold_of(model.fc.weight)    # Stiefel()
constraints(model)              # name, manifold and violation of each constrained weight
project_(model)                 # put back what was loaded or edited off its surface
unconstrain(model.fc, "weight")
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from riemopt import registry
from riemopt.dtensor import assign_whole_, whole
from riemopt.manifolds import Manifold
from riemopt.registry import Entry


class ManifoldParameter(nn.Parameter):
    """A Parameter whose stored value is the point of `manifold` nearest to `data`.

    Assigned to a module, it is entered in that module's table, which then holds the constraint
    whatever becomes of this object (see `riemopt.registry`). A loose one carries it itself, through
    `copy.deepcopy`, `pickle` and `torch.save`/`torch.load(weights_only=True)`.

    Args:
        data: floating-point or complex tensor of a shape that `manifold` accepts.
        manifold: an instance, such as `Stiefel()`.
        requires_grad: as of `torch.nn.Parameter`.
        tangent_grad: make `.grad` tangent as soon as backward has accumulated it, so that clipping,
            logging and torch's own optimizers see the Riemannian gradient (of the ambient metric).

    Raises:
        TypeError: `manifold` is not an instance of `Manifold`.
        ValueError: the shape is wrong, the dtype is an integer, or `data` is not finite.
    """

    manifold: Manifold
    tangent_grad: bool

    def __new__(
        cls,
        data: Tensor,
        manifold: Manifold,
        requires_grad: bool = True,
        *,
        tangent_grad: bool = False,
    ) -> "ManifoldParameter":
        """Project `data` and wrap it."""
        _check(data, manifold)
        value = data.detach()
        value = value.clone() if value.is_meta else manifold.project(value)
        state = {"manifold": manifold, "tangent_grad": tangent_grad}
        return _rebuild_manifold_parameter(value, requires_grad, state)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Everything is done in `__new__`, as in `torch.nn.Parameter`."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "ManifoldParameter":
        if id(self) not in memo:
            memo[id(self)] = _rebuild_manifold_parameter(
                self.data.clone(), self.requires_grad, dict(self.__dict__)
            )
        copied: ManifoldParameter = memo[id(self)]
        return copied

    def __reduce_ex__(self, proto: Any) -> Any:
        return _rebuild_manifold_parameter, (self.data, self.requires_grad, dict(self.__dict__))

    def __repr__(self) -> str:  # type: ignore[override]
        manifold = getattr(self, "manifold", "no manifold any more")
        return f"ManifoldParameter on {manifold} containing:\n{self.data!r}"


def _rebuild_manifold_parameter(
    data: Tensor, requires_grad: bool, state: dict[str, Any]
) -> ManifoldParameter:
    """Wrap `data` as it is: copies and loaded values keep every bit."""
    if type(data) in (Tensor, nn.Parameter):
        param: Any = Tensor._make_subclass(ManifoldParameter, data, requires_grad)
    else:  # a FakeTensor, say: as torch.nn.Parameter does, mark the tensor instead of wrapping it
        param = nn.Parameter(data, requires_grad)
    param.__dict__.update(state)
    if state.get("tangent_grad") and requires_grad:
        registry.ensure_tangent_grad(param, state["manifold"])
    return param


def constrain(
    module: nn.Module, name: str, manifold: Manifold, *, tangent_grad: bool = False
) -> nn.Module:
    """Put the parameter `name` of `module` on `manifold`, and keep it there.

    The same shape of call as `torch.nn.utils.parametrize.register_parametrization`. The value is
    moved, in place, to the nearest point of the manifold; the Parameter object stays the same, so
    that optimizers and tied weights keep working. A Riemannian optimizer finds the constraint
    whether it is built before or after this call.

    Args:
        module: the module that owns the parameter.
        name: its name there, without dots.
        manifold: an instance, such as `Stiefel()`.
        tangent_grad: as of `ManifoldParameter`.

    Returns:
        `module`.

    Raises:
        AttributeError: `module` has no such parameter of its own.
        TypeError: `manifold` is not an instance of `Manifold`, or arguments are swapped.
        ValueError: already constrained, wrong shape, integer dtype, or a value that is not finite.
    """
    param = _parameter(module, name)
    table = registry.table_of(module)
    if table is not None and name in table:
        raise ValueError(
            f"{name!r} of {type(module).__name__} is already on {table[name].manifold}; "
            "call riemopt.unconstrain(module, name) first."
        )
    _check(param, manifold)
    registry.refuse_kernel_as_batch(module, manifold)
    tied = manifold_of(param)
    if tied is not None and tied != manifold:
        raise ValueError(
            f"{name!r} of {type(module).__name__} is tied to a parameter on {tied} and cannot be "
            f"on {manifold} too."
        )
    if not param.is_meta:
        _project_value(param, manifold)
    registry.adopt(module, name, Entry(manifold, tangent_grad), param)
    registry.announce(param)
    return module


def unconstrain(module: nn.Module, name: str) -> nn.Module:
    """Release the parameter `name` of `module`; its value stays. Returns `module`.

    Raises:
        ValueError: it is not constrained.
    """
    table = registry.table_of(module)
    if table is None or name not in table:
        known = sorted(table) if table is not None else []
        raise ValueError(
            f"{name!r} of {type(module).__name__} is not constrained; constrained here: {known}."
        )
    param = table.parameter(name)
    table.remove(name)
    if param is not None:
        registry.remove_tangent_grad(param)
        param.__dict__.pop("manifold", None)
        registry.announce(param)
    return module


def manifold_of(param: Tensor) -> Manifold | None:
    """The manifold that `param` is constrained to, or None.

    Asks the tables of all live modules, then the parameter itself.
    """
    return registry.resolve([param])[0]


class Constraint(NamedTuple):
    """One constrained weight of a model, as `constraints` reports it."""

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
    """
    report = []
    for name, param, entry in _constrained(model):
        violation, tolerance = _measure(whole(param.detach()), entry.manifold)
        report.append(Constraint(name, entry.manifold, violation, tolerance))
    return report


@torch.no_grad()
def project_(model: nn.Module) -> nn.Module:
    """Move every constrained weight of `model`, in place, to the nearest point of its manifold.

    For weights that were loaded, averaged or edited off their surface. A weight that satisfies its
    constraint to rounding already is left as it is, bit for bit. What is spread over processes is
    gathered; all of them must call it. Returns `model`.

    Raises:
        ValueError: a weight is not finite; no weight has been changed then.
        LostManifoldError: a constrained name is not a parameter any more.
    """
    found = [(n, p, e) for n, p, e in _constrained(model) if not p.is_meta]
    for name, param, entry in found:
        _check(whole(param), entry.manifold, name)
    for _, param, entry in found:
        violation, tolerance = _measure(whole(param.detach()), entry.manifold)
        if not violation <= tolerance:
            _project_value(param, entry.manifold)
    return model


def _constrained(model: nn.Module) -> list[tuple[str, Tensor, Entry]]:
    found: dict[int, tuple[str, Tensor, Entry]] = {}
    for prefix, table in registry.tables_in(model):
        for name in table:
            param = table.parameter(name)
            if param is not None:
                found.setdefault(id(param), (prefix + name, param, table[name]))
            elif table.is_lost(name):
                raise registry.LostManifoldError(
                    f"{prefix + name} was constrained to {table[name].manifold} and is not a "
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
def _project_value(param: Tensor, manifold: Manifold) -> None:
    assign_whole_(param, manifold.project(whole(param.detach())))


def _parameter(module: nn.Module, name: str) -> Tensor:
    if not isinstance(module, nn.Module) or not isinstance(name, str):
        raise TypeError(
            "constrain takes a module, the name of its parameter and a manifold; got "
            f"{type(module).__name__} and {name!r} for the first two."
        )
    param = module._parameters.get(name)
    if param is not None:
        return param
    if nn.utils.parametrize.is_parametrized(module, name):
        raise AttributeError(
            f"{name!r} of {type(module).__name__} is computed by a parametrization. Take that away "
            "with torch.nn.utils.parametrize.remove_parametrizations, then constrain it."
        )
    known = [n for n, p in module._parameters.items() if p is not None]
    owner, _, last = name.rpartition(".")
    hint = f" Call constrain(model.get_submodule({owner!r}), {last!r}, …)." if owner else ""
    raise AttributeError(
        f"{type(module).__name__} has no parameter {name!r}; it has {known}.{hint}"
    )


def _check(data: Tensor, manifold: Manifold, name: str = "the value") -> None:
    if not isinstance(manifold, Manifold):
        hint = f"; write {manifold.__name__}()" if isinstance(manifold, type) else ""
        raise TypeError(
            f"A manifold instance is needed, such as Stiefel(); got {manifold!r}{hint}."
        )
    if nn.parameter.is_lazy(data):
        raise ValueError("A lazy parameter has no shape yet; run the module once, then constrain.")
    if not (data.is_floating_point() or data.is_complex()):
        raise ValueError(f"{manifold} needs a floating-point or complex tensor; got {data.dtype}.")
    manifold.check_shape(data.shape)
    concrete = type(data) in (Tensor, nn.Parameter, ManifoldParameter) and not data.is_meta
    if concrete and not bool(data.isfinite().all()):
        raise ValueError(f"{name} has entries that are not finite; no point is nearest to it.")


torch.serialization.add_safe_globals([_rebuild_manifold_parameter])
