"""Which parameter lies on which manifold: a table of names on each module that owns one.

A manifold kept on the Parameter object is lost whenever torch makes a new object for the same
weight: `load_state_dict(assign=True)`, `to("meta")` with `to_empty`, `fully_shard`, `deepcopy`. A
name in the owning module survives all of them, so the table is the truth, and a `manifold`
attribute on the tensor counts only for a parameter that no module owns.

Optimizers are given bare parameters, never the module. They find the tables through the weak set
of live ones, and are told when a table changes after they were built.
"""

import copy
import importlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from riemopt.manifolds import Manifold

_ATTRIBUTE = "_manifold_table"

Converter = Callable[[Any], Manifold]
# Converters of the manifolds of other packages, which a tensor may carry, by package; and the
# modules that register one when they are imported, which is done when such a manifold is met.
_CONVERTERS: dict[str, Converter] = {}
_CONVERTED_BY = {"geoopt": "riemopt.interop.geoopt"}


class Entry(NamedTuple):
    """What is known of one constrained name."""

    manifold: Manifold
    tangent_grad: bool = False


class Listener(Protocol):
    """What an optimizer offers to be told of later changes."""

    def _manifold_changed(self, param: Tensor, manifold: Manifold | None) -> None: ...


class LostManifoldError(RuntimeError):
    """A parameter was constrained, and the weight that it stood for cannot be found any more."""


class ManifoldTable:
    """Name → `Entry` for the parameters that one module owns itself (not its children).

    Lives in the module's `__dict__` and follows it through copy and pickle. It refers to its owner
    weakly, so that it adds no reference cycle that would keep a model's memory alive.
    """

    def __init__(self, owner: nn.Module) -> None:
        self._attach(owner, {})

    def _attach(self, owner: nn.Module | None, entries: dict[str, Entry]) -> None:
        self._owner = (lambda: None) if owner is None else weakref.ref(owner)
        self._entries = entries
        _TABLES.add(self)

    @property
    def owner(self) -> nn.Module | None:
        """The module, or None when it is gone."""
        return self._owner()

    def __deepcopy__(self, memo: dict[int, Any]) -> "ManifoldTable":
        # Module copies memoize the new module before they copy its __dict__.
        new = object.__new__(ManifoldTable)
        memo[id(self)] = new
        # A manifold may refer to a parameter of the module, such as a curvature that is learned.
        entries = copy.deepcopy(dict(self._entries), memo)
        new._attach(memo.get(id(self.owner), self.owner), entries)
        return new

    def __getstate__(self) -> dict[str, Any]:
        return {"owner": self.owner, "entries": self._entries}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._attach(state["owner"], state["entries"])

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._entries))

    def set(self, name: str, entry: Entry) -> None:
        """Constrain `name`."""
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Forget `name`."""
        del self._entries[name]

    def parameter(self, name: str) -> Tensor | None:
        """The tensor now stored under `name`; if parametrize took over, its `original`."""
        owner = self.owner
        if owner is None:
            return None
        parametrizations = owner._modules.get("parametrizations")
        if isinstance(parametrizations, nn.ModuleDict) and name in parametrizations:
            return parametrizations[name]._parameters.get("original")
        return owner._parameters.get(name)

    def is_lost(self, name: str) -> bool:
        """Whether the module has no parameter of this name, not even one that is None."""
        owner = self.owner
        return owner is not None and name not in owner._parameters and self.parameter(name) is None


_TABLES: "weakref.WeakSet[ManifoldTable]" = weakref.WeakSet()
_LISTENERS: "weakref.WeakSet[Any]" = weakref.WeakSet()


def table_of(module: nn.Module, *, create: bool = False) -> ManifoldTable | None:
    """The module's own table, made on demand."""
    table = module.__dict__.get(_ATTRIBUTE)
    if table is not None and table.owner is not module:  # a shallow copy shares its original's
        table = _private_copy(module, table)
    if table is None and create:
        table = ManifoldTable(module)
        module.__dict__[_ATTRIBUTE] = table
    return table


def _private_copy(module: nn.Module, shared: ManifoldTable) -> ManifoldTable:
    table = ManifoldTable(module)
    table._entries.update(shared._entries)
    module.__dict__[_ATTRIBUTE] = table
    return table


def tables_in(model: nn.Module) -> Iterator[tuple[str, ManifoldTable]]:
    """`(prefix, table)` of every submodule that owns a constrained parameter."""
    for prefix, module in model.named_modules():
        table = table_of(module)
        if table is not None:
            yield prefix + "." * bool(prefix), table


def listen(optimizer: Listener) -> None:
    """Tell `optimizer` (held weakly) whenever a parameter is constrained or released."""
    _LISTENERS.add(optimizer)


def announce(param: Tensor) -> None:
    """Tell the optimizers that already step `param` where it lies now."""
    manifold = resolve([param])[0]
    for listener in tuple(_LISTENERS):
        listener._manifold_changed(param, manifold)


def resolve(params: Iterable[Tensor]) -> list[Manifold | None]:
    """The manifold of each parameter, None where it has none.

    Raises:
        LostManifoldError: a module that owns one of `params` has a constrained name that is no
            parameter any more, so that a step would leave its surface without a word.
        ValueError: tied weights that are constrained to different manifolds.
    """
    found: dict[int, list[tuple[ManifoldTable, str]]] = {}
    lost: dict[int, str] = {}
    for table in tuple(_TABLES):
        for name in table:
            param = table.parameter(name)
            if param is not None:
                found.setdefault(id(param), []).append((table, name))
            elif table.is_lost(name):
                owner = table.owner
                assert owner is not None
                message = f"{type(owner).__name__} has no parameter {name!r} any more, which"
                lost.update(dict.fromkeys(map(id, owner.parameters(recurse=False)), message))
    return [_resolve_one(p, found.get(id(p), []), lost.get(id(p))) for p in params]


def _resolve_one(
    param: Tensor, places: list[tuple[ManifoldTable, str]], lost: str | None
) -> Manifold | None:
    manifolds = {table[name].manifold for table, name in places}
    if len(manifolds) > 1:
        where = [f"{n!r} of {type(t.owner).__name__} on {t[n].manifold}" for t, n in places]
        raise ValueError(
            f"One parameter is tied to several manifolds: {', '.join(where)}. Unconstrain all but "
            "one of them."
        )
    if manifolds:
        return manifolds.pop()
    if lost is not None:
        raise LostManifoldError(
            f"{lost} was constrained. Something replaced it (pruning, weight_norm, a "
            "parametrization with several originals). Call riemopt.unconstrain on that name, or "
            "undo the replacement before the optimizer is built."
        )
    for info in getattr(param, "_param_infos", ()):  # a FlatParameter of the first FSDP
        table = table_of(info.module)
        if table is not None and info.param_name in table:
            raise LostManifoldError(
                f"FullyShardedDataParallel flattened {info.module_name}.{info.param_name}, which "
                f"lies on {table[info.param_name].manifold}: a flat buffer has no matrices. "
                "Use torch.distributed.fsdp.fully_shard."
            )
    manifold = getattr(param, "manifold", None)
    return manifold if isinstance(manifold, Manifold) else _from_elsewhere(manifold)


def register_converter(package: str, convert: Converter) -> None:
    """Let `convert` make manifolds of ours of those of `package` that parameters carry."""
    _CONVERTERS[package] = convert


def _from_elsewhere(manifold: Any) -> Manifold | None:
    """A manifold of another package, a user's subclass included, as one of ours."""
    for cls in type(manifold).__mro__:
        package = cls.__module__.partition(".")[0]
        if package in _CONVERTED_BY and package not in _CONVERTERS:
            importlib.import_module(_CONVERTED_BY[package])
        if package in _CONVERTERS:
            return _CONVERTERS[package](manifold)
    return None


def resolve_alias(tensor: Tensor) -> Manifold | None:
    """The manifold of the live parameter that shares `tensor`'s memory (its `detach()`, say)."""
    for table in tuple(_TABLES):
        for name in table:
            param = table.parameter(name)
            if (
                param is not None
                and param.shape == tensor.shape
                and param.device == tensor.device
                and param.data_ptr() == tensor.data_ptr()
            ):
                return table[name].manifold
    return None
