"""A Parameter that has a manifold enters the table of every module that registers it.

layer.weight = ManifoldParameter(torch.randn(6, 4), Stiefel())  # enters the table of `layer`
wrapper.weight = layer.weight                                   # and that of `wrapper`
layer.weight = nn.Parameter(torch.randn(6, 4))                  # the table says: on Stiefel() too
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from riemopt.nn.admission import check_registered, entry_of, placed
from riemopt.nn.parameter import carried_by, mark
from riemopt.nn.table import Entry, ManifoldTable, Places, table_of
from riemopt.nn.tangent_grad import ensure_tangent_grad


def adopt(module: nn.Module, name: str, entry: Entry, param: Tensor) -> None:
    """Write `name`, under which `param` is stored, into the module's table; and mark `param`."""
    entries = table_of(module, create=True)
    assert entries is not None
    entries.set(name, entry)
    mark(param, *entry)
    if entry.tangent_grad:
        keep_tangent_grads(module)


def whole_table(module: nn.Module, places: Places) -> ManifoldTable | None:
    """The module's table, after what torch wrote past its registration has been entered and marked.

    Args:
        module: not searched further.
        places: where parameters stand in all tables now.
    """
    entries = table_of(module)
    for name in entries or ():
        assert entries is not None
        param = entries.parameter(name)
        if param is not None and carried_by(param) is None:
            mark(param, *entries[name])
    for name, param in tuple(module._parameters.items()):
        if param is None or (entries is not None and name in entries):
            continue
        entry = entry_carried_by(param) or places.entry(param)
        if entry is not None and (entries is None or not entries.has_renamed(param, name)):
            adopt(module, name, entry, param)
            entries = table_of(module)
    return entries


def tables_in(model: nn.Module) -> Iterator[tuple[str, nn.Module, ManifoldTable]]:
    """`(prefix, module, table)` of every submodule that owns a constrained parameter.

    Raises:
        ValueError: the padding row of a table is constrained, through a layer tied to it.
    """
    places = Places()
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            _check_tied_table(prefix, module, places)
        entries = whole_table(module, places)
        if entries is not None:
            yield prefix + "." * bool(prefix), module, entries


def _check_tied_table(prefix: str, module: nn.Embedding | nn.EmbeddingBag, places: Places) -> None:
    """Refuse what `constrain` cannot see, as it is given the other layer: a padding row that moves.

    A table that has the constraint itself is left: its `padding_idx` may have been set since.
    """
    entries, param = table_of(module), entry_of(module._parameters, "weight")
    if param is None or (entries is not None and "weight" in entries):
        return
    entry = entry_carried_by(param) or places.entry(param)
    if entry is not None and placed(module, "weight", param, entry.manifold) != entry.manifold:
        raise ValueError(
            f"The padding row of {prefix or 'the model'} ({type(module).__name__}) is on "
            f"{entry.manifold}: its weight was constrained through another layer that has it. Call "
            "riemopt.unconstrain there, write the row anew, and constrain the weight through the "
            f"{type(module).__name__}, which leaves the row as it is."
        )


def entry_carried_by(param: Tensor | None) -> Entry | None:
    """What a Parameter object says of itself, as the table would hold it."""
    manifold = None if param is None else carried_by(param)
    return None if manifold is None else Entry(manifold, bool(getattr(param, "tangent_grad", 0)))


def _on_registration(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
    """Called by torch for every parameter that any module registers."""
    if param is None:
        return
    entry, entries = entry_carried_by(param), table_of(module)
    known = entries[name] if entries is not None and name in entries else None
    if entry is None:  # a new value, or a new object, for the same weight
        known = known or entry_carried_by(entry_of(module._parameters, name))
        if known is not None:
            adopt(module, name, known, param)
        return
    if entries is not None and entries.has_renamed(param, name):
        return
    if known is not None and known.manifold != entry.manifold and Places([param]).of(param):
        return  # tied to two manifolds, which the next optimizer says
    check_registered(module, name, param, entry.manifold)
    adopt(module, name, entry, param)


def keep_tangent_grads(module: nn.Module) -> None:
    """Let `module` restore lost hooks before each forward pass."""
    if restore_tangent_grads not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(restore_tangent_grads)


def restore_tangent_grads(module: nn.Module, args: Any) -> None:
    """Forward pre-hook: hook each parameter that the module's table gives a tangent gradient."""
    entries = table_of(module)
    for name in entries or ():
        assert entries is not None
        param = entries.parameter(name)
        if param is not None and entries[name].tangent_grad:
            ensure_tangent_grad(param, entries[name].manifold)


register_module_parameter_registration_hook(_on_registration)
