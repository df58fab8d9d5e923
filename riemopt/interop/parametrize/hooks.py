"""Weights that torch computes by hooks: its first weight_norm and spectral_norm, and pruning.

Such a module keeps `weight_g` and `weight_v`, or `weight_orig` and `weight_mask`, and a hook sets
`weight` before each forward pass.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from riemopt.interop.common import as_read, enter
from riemopt.interop.parametrize.maps import ScaledDirection
from riemopt.interop.parametrize.weights import NotConvertedError, set_value
from riemopt.manifolds import Manifold, Sparsity
from riemopt.nn import table


class HookedWeight(NamedTuple):
    """One weight that a hook computes."""

    name: str
    """Qualified."""
    module: nn.Module
    tensor_name: str
    key: int
    """Of the hook in the module."""
    hook: Any

    def original(self, ending: str) -> nn.Parameter:
        """The parameter from which it is computed.

        Raises:
            NotConvertedError: it is no parameter, or constrained by itself.
        """
        name = self.tensor_name + ending
        param = self.module._parameters.get(name)
        if param is None:
            raise NotConvertedError(f"{name} is not a parameter")
        entries = table.table_of(self.module)
        if entries is not None and name in entries:
            raise NotConvertedError(f"{name} is constrained to {entries[name].manifold} already")
        return param


def hooked_weights(model: nn.Module) -> list[HookedWeight]:
    """All of `model` and its submodules."""
    found = []
    for prefix, module in model.named_modules():
        for key, hook in module._forward_pre_hooks.items():
            if isinstance(hook, WeightNorm | SpectralNorm):
                name = hook.name
            elif isinstance(hook, prune.BasePruningMethod):
                name = hook._tensor_name
            else:
                continue
            full = prefix + "." * bool(prefix) + name
            found.append(HookedWeight(full, module, name, key, hook))
    return found


def convert_hooked(
    weight: HookedWeight, known: dict[int, list[tuple[str, nn.Module]]]
) -> dict[str, Manifold]:
    """The parameter that is constrained now, and its manifold; `known` are the owners of all.

    Raises:
        NotConvertedError: nothing has changed.
    """
    if isinstance(weight.hook, SpectralNorm):
        raise NotConvertedError(
            "‖W‖₂ = 1 is on no manifold of the catalogue (spectral_norm; "
            "torch.nn.utils.remove_spectral_norm takes it away)"
        )
    if isinstance(weight.hook, WeightNorm):
        return _weight_norm(weight, known)
    return _pruned(weight, known)


def _weight_norm(
    weight: HookedWeight, known: dict[int, list[tuple[str, nn.Module]]]
) -> dict[str, Manifold]:
    """W = g·V/‖V‖ to `ScaledDirection`, as for torch's parametrization of that name."""
    module, name = weight.module, weight.tensor_name
    g, v = weight.original("_g"), weight.original("_v")
    _refuse_ties(weight, (g, v), known)
    scaled = ScaledDirection(weight.hook.dim)
    try:
        sphere, direction = scaled.direction(v)
    except ValueError:
        raise NotConvertedError("each entry has a length of its own, and no direction") from None
    _check(module, name, direction, sphere)
    del module._forward_pre_hooks[weight.key]
    del module._parameters[name + "_g"], module._parameters[name + "_v"]
    module.__dict__.pop(name, None)
    module.register_parameter(name, nn.Parameter(scaled(g, direction).detach()))
    parametrize.register_parametrization(module, name, scaled.train(module.training), unsafe=True)
    maps: Any = module.parametrizations[name]  # type: ignore[index]
    set_value(v, direction)
    maps.original0, maps.original1 = g, v
    enter(maps, "original1", v, sphere)
    prefix = weight.name.removesuffix(name)
    return {f"{prefix}parametrizations.{name}.original1": sphere}


def _pruned(
    weight: HookedWeight, known: dict[int, list[tuple[str, nn.Module]]]
) -> dict[str, Manifold]:
    """W ∘ mask to a weight on `Sparsity(mask)`."""
    module, name = weight.module, weight.tensor_name
    param = weight.original("_orig")
    _refuse_ties(weight, (param,), known)
    mask = module._buffers[name + "_mask"]
    assert mask is not None
    if mask.is_meta:
        raise NotConvertedError("its mask has no values on meta")
    try:
        manifold = Sparsity(mask != 0)
    except ValueError as error:
        raise NotConvertedError(str(error)) from None
    value = param.detach() * mask
    _check(module, name, value, manifold)
    del module._forward_pre_hooks[weight.key]
    del module._parameters[name + "_orig"], module._buffers[name + "_mask"]
    module.__dict__.pop(name, None)
    set_value(param, value)
    module.register_parameter(name, param)
    enter(module, name, param, manifold)
    return {weight.name: manifold}


def _refuse_ties(
    weight: HookedWeight,
    originals: tuple[nn.Parameter, ...],
    known: dict[int, list[tuple[str, nn.Module]]],
) -> None:
    own = {f"{weight.name}{ending}" for ending in ("_g", "_v", "_orig")}
    others = [place for p in originals for place, _ in known[id(p)] if place not in own]
    if others:
        raise NotConvertedError(f"its original is tied to {' and '.join(others)}")


def _check(module: nn.Module, name: str, value: Tensor, manifold: Manifold) -> None:
    try:
        manifold.check_shape(value.shape)
        placed = as_read(module, name, value, manifold)
    except ValueError as error:
        raise NotConvertedError(str(error)) from None
    if placed != manifold:
        raise NotConvertedError(f"its padding row is not on {manifold}")
    if not value.is_meta and not bool(value.isfinite().all()):
        raise NotConvertedError("the computed weight is not finite")
