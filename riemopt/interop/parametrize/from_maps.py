"""From parametrizations to constraints: the computed weight becomes the stored one."""

import torch
from torch import Tensor, nn

from riemopt.interop.common import Report, as_read, enter, satisfies
from riemopt.interop.parametrize.hooks import convert_hooked, hooked_weights
from riemopt.interop.parametrize.maps import ScaledDirection
from riemopt.interop.parametrize.recognize import Manifolds, is_weight_norm, target
from riemopt.interop.parametrize.weights import (
    NotConvertedError,
    Weight,
    compute,
    owners,
    parametrized_weights,
    remove_maps,
    set_value,
)
from riemopt.linalg import outside_autocast
from riemopt.manifolds import Manifold
from riemopt.nn import table
from riemopt.nn.admission import require_module

# A computed weight may be off its manifold by so many times what rounding explains: matrix_exp and
# a base that has been multiplied many times are less exact than a retraction.
_SLACK = 10


@outside_autocast
def from_parametrized(model: nn.Module, manifolds: Manifolds | None = None) -> Report:
    """Replace parametrizations by constraints, each weight keeping its value. In place.

    ====================================================  ========================================
    `torch.nn.utils.parametrizations.orthogonal`          `Stiefel()`
    `weight_norm`, W = g·V/‖V‖                            `ScaledDirection`: g stays a parameter,
                                                          V/‖V‖ becomes one on a `Sphere`
    `Symmetrize`, `SkewSymmetrize`, `Normalize`           `Symmetric()`, `SkewSymmetric()`,
                                                          `Sphere(dim, radius)`
    geotorch's Sphere, SphereEmbedded, Symmetric, Skew,   `Sphere(radius=…)`, `Symmetric()`,
    SO, SL, Stiefel, Grassmannian, PSD                    `SkewSymmetric()`, `SpecialOrthogonal()`,
                                                          `SpecialLinear()`, `Stiefel()`,
                                                          `Grassmann()`, `SPD()`
    geotorch's FixedRank, LowRank                         `FixedRank(rank)`
    `torch.nn.utils.weight_norm`, by hooks                as `weight_norm` above
    `torch.nn.utils.prune`, W∘mask                        `Sparsity(mask)`
    ====================================================  ========================================

    A weight is converted or left as a whole. The value is the computed one, bit for bit where it
    satisfies the constraint, else the nearest point. The Parameter that was the original becomes
    the weight, with its `requires_grad`, dtype and device, and without its gradient; the state that
    an optimizer keeps of it means nothing any more: build a new one. Training or eval mode is not
    changed. Weights that share an original stay tied if they are equal. What `parametrize.cached`
    holds is not looked at; nor, on `meta`, are values.

    Args:
        model: searched with its submodules.
        manifolds: where the user's own parametrizations map, by class: `{MyMap: Symmetric()}`.

    Returns:
        The manifold of each parameter that is constrained now; of each weight that is left, why.

    Examples:
        >>> from torch import nn
        >>> from torch.nn.utils.parametrizations import orthogonal
        >>> from riemopt.interop.parametrize import from_parametrized
        >>> model = nn.Sequential(orthogonal(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 1))
        >>> print(from_parametrized(model))
        0.weight: Stiefel()
        >>> type(model[0].weight).__name__
        'ManifoldParameter'
    """
    require_module(model)
    known = owners(model)
    groups: dict[int, list[Weight]] = {}
    for weight in parametrized_weights(model):
        groups.setdefault(id(weight.originals[-1]), []).append(weight)
    done: dict[str, Manifold] = {}
    left: dict[str, str] = {}
    for key, group in groups.items():
        try:
            found = [_examine(weight, manifolds or {}) for weight in group]
            _check_ties(group, found, known.get(key, []))
            done.update(_convert(group, *found[0]))
        except NotConvertedError as error:
            left.update({weight.name: str(error) for weight in group})
    for hooked in hooked_weights(model):
        try:
            done.update(convert_hooked(hooked, known))
        except NotConvertedError as error:
            left[hooked.name] = str(error)
    return Report(done, left)


def _examine(weight: Weight, manifolds: Manifolds) -> tuple[Manifold, Tensor]:
    """The manifold, and the value: the weight, or the direction of a weight-normalised one."""
    maps = weight.maps
    if len(maps) > 1:
        names = " and ".join(type(p).__name__ for p in maps)
        raise NotConvertedError(f"several parametrizations follow each other: {names}")
    if not all(isinstance(original, nn.Parameter) for original in weight.originals):
        raise NotConvertedError("it is a buffer, which no optimizer steps")
    for original in weight.originals:
        before = _constraint_on(weight, original)
        if before is not None:
            raise NotConvertedError(f"it is constrained to {before} already")
    if is_weight_norm(maps[0]):
        return _direction(weight)
    manifold = target(maps[0], manifolds)
    if not maps.is_tensor:
        raise NotConvertedError(f"it is computed from {maps.ntensors} originals")
    value = compute(maps)
    if value.dtype != maps.original.dtype:
        raise NotConvertedError(f"the map changes {maps.original.dtype} to {value.dtype}")
    _check(manifold, value)
    return _admit(weight, value, manifold), value


def _constraint_on(weight: Weight, original: Tensor) -> Manifold | None:
    """The manifold of an original that riemopt knows: it, or the weight, was constrained before."""
    for module in (weight.module, weight.maps):
        entries = table.table_of(module)
        for name in entries or ():
            assert entries is not None
            if entries.parameter(name) is original:
                return entries[name].manifold
    return None


def _direction(weight: Weight) -> tuple[Manifold, Tensor]:
    """V/‖V‖, and its sphere."""
    _, v = weight.originals
    scaled = ScaledDirection(weight.maps[0].dim)  # type: ignore[arg-type]
    try:
        sphere, direction = scaled.direction(v)
    except ValueError:
        raise NotConvertedError("each entry has a length of its own, and no direction") from None
    _check(sphere, direction)
    _admit(weight, direction, sphere)
    return sphere, direction


def _admit(weight: Weight, value: Tensor, manifold: Manifold) -> Manifold:
    try:
        return as_read(weight.module, weight.tensor_name, value, manifold)
    except ValueError as error:
        raise NotConvertedError(str(error)) from None


def _check(manifold: Manifold, value: Tensor) -> None:
    try:
        manifold.check_shape(value.shape)
    except ValueError as error:
        raise NotConvertedError(str(error)) from None
    if value.is_meta or not value.numel():
        return
    if not bool(value.isfinite().all()):
        raise NotConvertedError("the computed weight is not finite")
    violation, tolerance = manifold.violation(value), manifold.tolerance(value)
    if not bool((violation <= _SLACK * tolerance).all()):
        raise NotConvertedError(f"the computed weight is off {manifold} by {violation.max():.1e}")


def _check_ties(
    group: list[Weight],
    found: list[tuple[Manifold, Tensor]],
    places: list[tuple[str, nn.Module]],
) -> None:
    """Nothing but these weights uses their original, and all are computed alike."""
    for name, module in places:
        if not any(module is weight.maps for weight in group):
            raise NotConvertedError(f"its original is tied to {name}")
    manifold, value = found[0]
    for another, its_value in found[1:]:
        if another != manifold or not (value.is_meta or torch.equal(value, its_value)):
            names = " and ".join(weight.name for weight in group)
            raise NotConvertedError(f"{names} share an original and are computed differently")


def _convert(group: list[Weight], manifold: Manifold, value: Tensor) -> dict[str, Manifold]:
    """Convert the weights of one original; the parameters that are constrained now."""
    if not value.is_meta and not satisfies(manifold, value):
        value = manifold.project(value)
    param = group[0].originals[-1]
    names: dict[str, Manifold] = {}
    for weight in group:
        if is_weight_norm(weight.maps[0]):
            names.update(_scale_direction(weight, manifold, value))
            continue
        remove_maps(weight)
        set_value(param, value)
        enter(weight.module, weight.tensor_name, param, manifold)
        names[weight.name] = manifold
    return names


def _scale_direction(weight: Weight, sphere: Manifold, value: Tensor) -> dict[str, Manifold]:
    scaled = ScaledDirection(weight.maps[0].dim)  # type: ignore[arg-type]
    weight.maps[0] = scaled.train(weight.module.training)
    set_value(weight.originals[1], value)
    enter(weight.maps, "original1", weight.originals[1], sphere)
    prefix = weight.name.removesuffix(weight.tensor_name)
    return {f"{prefix}parametrizations.{weight.tensor_name}.original1": sphere}
