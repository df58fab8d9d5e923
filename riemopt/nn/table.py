"""Which parameter lies on which manifold: kept on the Parameter object, and in its module's table.

Either alone would be lost. torch makes a new Parameter object for the same weight
(`load_state_dict(assign=True)`, `to("meta")` with `to_empty`, `fully_shard`): the name in the
owning module's table survives that. And the module goes, while its Parameter lives on in a wrapper,
a traced copy, an optimizer or a list: the `manifold` on the object survives that. Whoever learns of
one record writes the other: `constrain`, a module that registers a parameter
(`riemopt.nn.registration`), a look-up, and a table that goes with its module.

Optimizers are given bare parameters, never the module. They find the tables through the weak set
of live ones, and are told when a constraint changes after they were built.
"""

import copy
import importlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from riemopt.manifolds import Manifold
from riemopt.nn.admission import entry_of
from riemopt.nn.parameter import carried_by, mark

_ATTRIBUTE = "_manifold_table"
_RENAMED = "_orig"

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
    """A parameter was constrained, and the weight that it stood for cannot be found any more.

    Examples:
        >>> import torch, riemopt
        >>> from torch.nn.utils import prune
        >>> layer = riemopt.constrain(torch.nn.Linear(4, 8), "weight", riemopt.manifolds.Sphere())
        >>> _ = prune.random_unstructured(layer, "weight", 0.5)  # now the weight is computed
        >>> riemopt.RiemannianAdam(layer.parameters())
        Traceback (most recent call last):
        ...
        riemopt.nn.table.LostManifoldError: Linear has no parameter 'weight' any more, ...
    """


class ManifoldTable:
    """Name → `Entry` for the parameters that one module owns itself (not its children).

    Lives in the module's `__dict__` and follows it through copy and pickle. It holds the module's
    dicts of parameters and children, not the module, so that there is no reference cycle that would
    keep a model's memory alive. A shallow copy of a module shares the dicts, and so the table.
    """

    def __init__(self, owner: nn.Module, entries: dict[str, Entry]) -> None:
        self._fill(type(owner).__name__, owner._parameters, owner._modules, entries)

    def _fill(
        self,
        owner: str,
        parameters: dict[str, nn.Parameter | None],
        modules: dict[str, nn.Module | None],
        entries: dict[str, Entry],
    ) -> None:
        self.owner = owner
        """The class of the module, for messages."""
        self._parameters, self._modules, self._entries = parameters, modules, entries
        if entries:
            _TABLES.add(self)

    def belongs_to(self, module: nn.Module) -> bool:
        """Whether `module` keeps its parameters in the dict that this table is about."""
        return self._parameters is module._parameters

    def __deepcopy__(self, memo: dict[int, Any]) -> "ManifoldTable":
        new = object.__new__(ManifoldTable)
        memo[id(self)] = new
        # A manifold may refer to a parameter of the module, such as a curvature that is learned.
        dicts = copy.deepcopy((self._parameters, self._modules, self._entries), memo)
        new._fill(self.owner, *dicts)
        return new

    def __getstate__(self) -> tuple[Any, ...]:
        return self.owner, self._parameters, self._modules, self._entries

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._fill(*state)

    def __del__(self) -> None:
        # The module goes. torch may have put a new object in the place of one that was marked.
        for name, entry in getattr(self, "_entries", {}).items():
            param = self.parameter(name)
            if param is not None and carried_by(param) is None:
                mark(param, *entry)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._entries))

    def set(self, name: str, entry: Entry) -> None:
        """Constrain `name`."""
        global _changes
        self._entries[name] = entry
        _TABLES.add(self)
        _changes += 1

    def remove(self, name: str) -> None:
        """Forget `name`."""
        del self._entries[name]
        if not self._entries:  # one that is empty need not be looked through
            _TABLES.discard(self)

    def parameter(self, name: str) -> Tensor | None:
        """The tensor now stored under `name`; if parametrize took over, its `original`."""
        param = entry_of(self._parameters, name)
        parametrizations = entry_of(self._modules, "parametrizations") if param is None else None
        if isinstance(parametrizations, nn.ModuleDict) and name in parametrizations:
            return parametrizations[name]._parameters.get("original")
        return param

    def is_lost(self, name: str) -> bool:
        """Whether the module has no parameter of this name, not even one that is None."""
        return name not in self._parameters and self.parameter(name) is None

    def has_renamed(self, param: Tensor, name: str) -> bool:
        """Whether `param`, now `name`, is what another constrained name stood for.

        Pruning and spectral_norm store a weight as `weight_orig` and compute another as `weight`,
        which then is lost; when they are removed `weight` is the stored one again.
        """
        old = name.removesuffix(_RENAMED)
        return old != name and (self.parameter(old) is param or self._may_have_been(old, param))

    def renamed(self, name: str) -> list[Tensor]:
        """What a lost `name` may have stood for."""
        maps = entry_of(self._modules, "parametrizations")
        replaced = maps[name] if isinstance(maps, nn.ModuleDict) and name in maps else None
        params = [
            entry_of(self._parameters, name + _RENAMED),
            *(replaced.parameters() if replaced else ()),
        ]
        return [p for p in params if p is not None and self._may_have_been(name, p)]

    def _may_have_been(self, name: str, param: Tensor) -> bool:
        return name in self and self.is_lost(name) and carried_by(param) == self[name].manifold


_TABLES: "weakref.WeakSet[ManifoldTable]" = weakref.WeakSet()
_LISTENERS: "weakref.WeakSet[Any]" = weakref.WeakSet()
_changes = 0


def table_of(module: nn.Module, *, create: bool = False) -> ManifoldTable | None:
    """The module's own table, made on demand."""
    table: ManifoldTable | None = module.__dict__.get(_ATTRIBUTE)
    if table is not None and not table.belongs_to(module):  # a replica of the original
        table = ManifoldTable(module, dict(table._entries))
        module.__dict__[_ATTRIBUTE] = table
    if table is None and create:
        table = ManifoldTable(module, {})
        module.__dict__[_ATTRIBUTE] = table
    return table


def changes() -> int:
    """How many names have been constrained so far: the same number, nothing new."""
    return _changes


def listen(optimizer: Listener) -> None:
    """Tell `optimizer` (held weakly) whenever a parameter is constrained or released."""
    _LISTENERS.add(optimizer)


def announce(param: Tensor, manifold: Manifold | None) -> None:
    """Tell the optimizers that already step `param` where it lies now."""
    for listener in tuple(_LISTENERS):
        listener._manifold_changed(param, manifold)


Place = tuple[ManifoldTable, str]


class Places:
    """Where parameters stand in the tables: one pass through all of them.

    Args:
        params: those that are asked for; None for any.
    """

    def __init__(self, params: Iterable[Tensor] | None = None) -> None:
        wanted = None if params is None else set(map(id, params))
        self._found: dict[int, list[Place]] = {}
        self._lost: dict[int, str] = {}
        for table in tuple(_TABLES):
            for name in table._entries:
                param: Tensor | None = entry_of(table._parameters, name)  # the usual case
                if param is None:
                    param = table.parameter(name)
                if param is None:
                    self._note_if_lost(table, name)
                elif wanted is None or id(param) in wanted:
                    self._found.setdefault(id(param), []).append((table, name))

    def _note_if_lost(self, table: ManifoldTable, name: str) -> None:
        if table.is_lost(name):
            message = f"{table.owner} has no parameter {name!r} any more, which"
            self._lost.update(dict.fromkeys(map(id, table._parameters.values()), message))

    def of(self, param: Tensor) -> list[Place]:
        """The tables and names that `param` has."""
        return self._found.get(id(param), [])

    def entry(self, param: Tensor) -> Entry | None:
        """What the first of them says."""
        return next((table[name] for table, name in self.of(param)), None)

    def manifold(self, param: Tensor) -> Manifold | None:
        """The manifold of `param`, which is marked if only a table knew it.

        Raises:
            LostManifoldError, ValueError: as `resolve`.
        """
        if id(param) in self._lost:
            raise LostManifoldError(
                f"{self._lost[id(param)]} was constrained. Something replaced it (pruning, "
                "weight_norm, a parametrization with several originals). Call riemopt.unconstrain "
                "on that name, or undo the replacement before the optimizer is built."
            )
        places, carried = self.of(param), carried_by(param)
        manifolds = {table[name].manifold for table, name in places} | ({carried} - {None})
        if len(manifolds) > 1:
            where = [f"{n!r} of {t.owner} on {t[n].manifold}" for t, n in places]
            if carried is not None:
                where.append(f"the Parameter itself on {carried}")
            raise ValueError(
                f"One parameter is tied to several manifolds: {', '.join(where)}. Unconstrain all "
                "but one of them."
            )
        if places:
            table, name = places[0]
            if carried is None:
                mark(param, *table[name])
            return table[name].manifold
        _refuse_flat(param)
        return carried or converted(getattr(param, "manifold", None))


def resolve(params: Iterable[Tensor], places: Places | None = None) -> list[Manifold | None]:
    """The manifold of each parameter, None where it has none.

    Args:
        params: any parameters.
        places: where parameters stand, if that has been looked up just now.

    Raises:
        LostManifoldError: a module that owns one of `params` has a constrained name that is no
            parameter any more, so that a step would leave its surface without a word.
        ValueError: tied weights that are constrained to different manifolds.
    """
    params = list(params)
    places = places or Places(params)
    return [places.manifold(param) for param in params]


def manifold_of(param: Tensor) -> Manifold | None:
    """The manifold that `param` is constrained to, or None.

    A constrained parameter says so itself; for any other the tables of all live modules are looked
    through.

    Raises:
        TypeError: `param` is not a tensor (or None, as a bias may be).
        LostManifoldError, ValueError: as `resolve`, for a parameter that does not say it itself.

    Examples:
        >>> import torch, riemopt
        >>> layer = riemopt.constrain(torch.nn.Linear(4, 8), "weight", riemopt.manifolds.Stiefel())
        >>> riemopt.manifold_of(layer.weight), riemopt.manifold_of(layer.bias)
        (Stiefel(), None)
    """
    if param is not None and not isinstance(param, Tensor):
        hint = "; for a module call riemopt.constraints" if isinstance(param, nn.Module) else ""
        raise TypeError(f"manifold_of takes a parameter; got {type(param).__name__}{hint}.")
    return carried_by(param) or Places([param]).manifold(param)


def _refuse_flat(param: Tensor) -> None:
    """Raise `LostManifoldError` for the first FSDP's buffer of several weights."""
    for info in getattr(param, "_param_infos", ()):
        table = table_of(info.module)
        if table is not None and info.param_name in table:
            raise LostManifoldError(
                f"FullyShardedDataParallel flattened {info.module_name}.{info.param_name}, which "
                f"lies on {table[info.param_name].manifold}: a flat buffer has no matrices. "
                "Use torch.distributed.fsdp.fully_shard."
            )


def register_converter(package: str, convert: Converter) -> None:
    """Let `convert` make manifolds of ours of those of `package` that parameters carry."""
    _CONVERTERS[package] = convert


def converted(manifold: Any) -> Manifold | None:
    """A manifold of another package, a user's subclass included, as one of ours."""
    package = package_of(manifold)
    if package is None:
        return None
    if package not in _CONVERTERS:
        importlib.import_module(_CONVERTED_BY[package])
    return _CONVERTERS[package](manifold)


def package_of(manifold: Any) -> str | None:
    """The package whose manifold this is, if those of it are converted."""
    packages = [cls.__module__.partition(".")[0] for cls in type(manifold).__mro__]
    return next((p for p in packages if p in _CONVERTERS or p in _CONVERTED_BY), None)


def resolve_alias(tensor: Tensor) -> Manifold | None:
    """The manifold of the live parameter that shares `tensor`'s memory (its `detach()`, say)."""
    address = tensor.data_ptr()
    for table in tuple(_TABLES):
        for name in table._entries:
            param = table.parameter(name)
            if (
                param is not None
                and param.data_ptr() == address
                and param.shape == tensor.shape
                and param.device == tensor.device
            ):
                return table[name].manifold
    return None
