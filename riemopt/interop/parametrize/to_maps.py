"""From constraints back to parametrizations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations as torch_maps
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

from riemopt.interop.common import Report
from riemopt.interop.parametrize.maps import (
    Normalize,
    ScaledDirection,
    SkewSymmetrize,
    Symmetrize,
)
from riemopt.interop.parametrize.weights import (
    NotConvertedError,
    Weight,
    close,
    compute,
    own_class,
    random_state_kept,
    remove_maps,
)
from riemopt.linalg import outside_autocast
from riemopt.manifolds import (
    Flattened,
    Manifold,
    SkewSymmetric,
    SpecialOrthogonal,
    Sphere,
    Stiefel,
    Symmetric,
)
from riemopt.nn import table
from riemopt.nn.admission import require_module
from riemopt.nn.constrain import unconstrain
from riemopt.nn.registration import adopt, tables_in


@outside_autocast
def to_parametrized(model: nn.Module, *, orthogonal_map: str | None = None) -> Report:
    """Replace constraints by parametrizations, each weight keeping its value. In place.

    `Stiefel` (any metric and retraction) and `SpecialOrthogonal` become torch's `orthogonal`, with
    trivialization: it keeps the sign of a determinant.
    `Sphere` `Normalize`, `Symmetric` `Symmetrize`, `SkewSymmetric` `SkewSymmetrize`, and a
    `ScaledDirection` torch's `weight_norm`. The computed weight is the stored one to rounding. The
    Parameter object becomes the original; build a new optimizer. Tied weights stay tied: their
    modules share the parametrization. torch's random state is left as it was.

    Args:
        model: searched with its submodules.
        orthogonal_map: as in `torch.nn.utils.parametrizations.orthogonal`. Its default,
            "householder" for matrices that are not square, keeps signs in the original that weight
            decay, AdamW's default too, turns to 0: then use "matrix_exp" or "cayley".

    Returns:
        The parametrization of each weight, by name, and of each constraint that is left, why.

    Raises:
        ValueError: `orthogonal_map` is none of torch's.

    Examples:
        >>> from torch import nn
        >>> from riemopt import constrain
        >>> from riemopt.interop.parametrize import to_parametrized
        >>> from riemopt.manifolds import Sphere
        >>> layer = constrain(nn.Linear(4, 6), "weight", Sphere())
        >>> print(to_parametrized(layer))
        weight: Normalize(Sphere())
        >>> nn.utils.parametrize.is_parametrized(layer, "weight")
        True
    """
    if orthogonal_map not in (None, "matrix_exp", "cayley", "householder"):
        raise ValueError(
            "orthogonal_map must be None, 'matrix_exp', 'cayley' or 'householder'; "
            f"got {orthogonal_map!r}."
        )
    require_module(model)
    done: dict[str, nn.Module] = {}
    left: dict[str, str] = {}
    for places in _constrained(model).values():
        try:
            done.update(_convert(places, orthogonal_map))
        except NotConvertedError as error:
            left.update({full: str(error) for full, _, _ in places})
    return Report(done, left)


Place = tuple[str, nn.Module, str]


def _constrained(model: nn.Module) -> dict[int, list[Place]]:
    """Where each constrained parameter is kept: its qualified names, modules and names there."""
    found: dict[int, list[Place]] = {}
    for prefix, module, entries in tables_in(model):
        for name in entries:
            param = entries.parameter(name)
            if param is not None:
                found.setdefault(id(param), []).append((prefix + name, module, name))
    return found


def _convert(places: list[Place], orthogonal_map: str | None) -> dict[str, nn.Module]:
    full, module, name = places[0]
    param = module._parameters.get(name)
    if param is None:
        raise NotConvertedError("a parametrization was registered on top of the constraint")
    if isinstance(module, ParametrizationList):
        return _weight_norm(full, module, name)
    here = table.table_of(module)
    assert here is not None
    manifold = here[name].manifold
    make = _maker(manifold, orthogonal_map)
    value = param.detach().clone()
    entries = _release(places)
    try:
        maps = _register(module, name, make, value)
    except NotConvertedError:
        param.data = value
        _restore(places, entries, param)
        raise
    param.grad = None
    for _, other_module, its_name in places[1:]:
        _share(other_module, its_name, maps)
    return {place[0]: maps[0] for place in places}


def _release(places: list[Place]) -> list[table.Entry]:
    """Take the constraint away; what the tables said."""
    entries = []
    for _, module, name in places:
        here = table.table_of(module)
        assert here is not None
        entries.append(here[name])
    unconstrain(*places[0][1:])  # and with it those that are tied to it
    return entries


def _restore(places: list[Place], entries: list[table.Entry], param: nn.Parameter) -> None:
    for (_, module, name), entry in zip(places, entries, strict=True):
        adopt(module, name, entry, param)
    table.announce(param, entries[0].manifold)


def _register(
    module: nn.Module, name: str, make: Callable[[nn.Module, str], Any], value: Tensor
) -> ParametrizationList:
    """Parametrize; all is as before if that fails or would change the weight."""
    own_class(module)
    try:
        with random_state_kept(value.device):
            make(module, name)
        maps = _maps_of(module, name)
        weight = None if value.is_meta else compute(maps)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        if parametrize.is_parametrized(module, name):
            remove_maps(Weight(name, module, name, _maps_of(module, name)))
        raise NotConvertedError(f"torch refuses: {error}") from None
    if weight is not None and not close(weight, value):
        remove_maps(Weight(name, module, name, maps))
        raise NotConvertedError(
            f"the weight would change by {(weight - value).abs().max():.1e}: it is off the "
            "manifold, and riemopt.project_ brings it back"
        )
    return maps


def _maps_of(module: nn.Module, name: str) -> ParametrizationList:
    assert isinstance(module.parametrizations, nn.ModuleDict)
    maps = module.parametrizations[name]
    assert isinstance(maps, ParametrizationList)
    return maps


def _share(module: nn.Module, name: str, maps: ParametrizationList) -> None:
    """Let `module` compute its weight `name` by the `maps` of the module that it was tied to."""
    own_class(module)
    module._parameters[name] = nn.Parameter(torch.empty(0), requires_grad=False)
    parametrize.register_parametrization(module, name, nn.Identity())
    assert isinstance(module.parametrizations, nn.ModuleDict)
    module.parametrizations[name] = maps


def _maker(manifold: Manifold, orthogonal_map: str | None) -> Callable[[nn.Module, str], Any]:
    """What registers a parametrization onto `manifold` on a module and name."""
    if isinstance(manifold, Flattened) and manifold.event_ndim == 2:
        manifold = manifold.base
    scaled = isinstance(manifold, Stiefel) and manifold.scale != 1
    if isinstance(manifold, Stiefel | SpecialOrthogonal) and not scaled:
        return lambda module, name: torch_maps.orthogonal(module, name, orthogonal_map)
    new: nn.Module
    if isinstance(manifold, Sphere):
        new = Normalize(manifold.slice_dims, manifold.radius)
    elif isinstance(manifold, Symmetric):
        new = Symmetrize()
    elif isinstance(manifold, SkewSymmetric):
        new = SkewSymmetrize()
    else:
        raise NotConvertedError(f"no parametrization onto {manifold} is at hand")
    return lambda module, name: parametrize.register_parametrization(module, name, new)


def _weight_norm(full: str, maps: ParametrizationList, name: str) -> dict[str, nn.Module]:
    """`ScaledDirection` to torch's `weight_norm`: D is a V of length 1."""
    scaled = maps[0]
    if not isinstance(scaled, ScaledDirection):
        raise NotConvertedError("it is an original of a parametrization")
    unconstrain(maps, name)
    maps[0] = torch_maps._WeightNorm(scaled.dim).train(scaled.training)
    return {full: maps[0]}
