"""geotorch (Lezcano-Casado 2019): parametrizations, with torch's Adam on their `original`."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from riemopt_bench.interface import ADAM_GRID, Method, Skip, all_surfaces, unknown
from riemopt_bench.libraries._packages import needs
from riemopt_bench.libraries._parametrized import (
    Register,
    as_matrix,
    attach,
    stepping_of_a_parametrization,
)
from riemopt_bench.surfaces import (
    LowRank,
    PositiveDefinite,
    Rotation,
    Sphere,
    Stiefel,
    Subspace,
    Surface,
    Symmetric,
)


@functools.singledispatch
def registration(surface: Surface) -> Register:
    """A function that registers geotorch's parametrization on a module's parameter."""
    raise unknown("geotorch", surface)


def _starting_there(constraint: str, *options: Any) -> Register:
    """geotorch draws a start when it registers; the task's is put back."""

    def register(module: nn.Module, attribute: str) -> None:
        import geotorch

        weight: Tensor = getattr(module, attribute)
        start = weight.detach().clone()
        getattr(geotorch, constraint)(module, attribute, *options)
        setattr(module, attribute, start)

    return register


def _orthogonal(surface: Stiefel, constraint: str) -> Register:
    register = _starting_there(constraint)
    return functools.partial(as_matrix, register) if surface.kernel else register


@registration.register
def _(surface: Stiefel) -> Register:
    return _orthogonal(surface, "orthogonal")


@registration.register
def _(surface: Subspace) -> Register:
    return _orthogonal(surface, "grassmannian")


@registration.register
def _(surface: Rotation) -> Register:
    return _orthogonal(surface, "orthogonal")  # geotorch.SO, for a square matrix


@registration.register
def _(surface: Sphere) -> Register:
    if surface.dim != -1:
        raise Skip(f"geotorch.sphere works along dim -1 only; got dim {surface.dim}")
    return _starting_there("sphere")


@registration.register
def _(surface: Symmetric) -> Register:
    def register(module: nn.Module, attribute: str) -> None:
        import geotorch

        geotorch.symmetric(module, attribute)  # a symmetric start is kept

    return register


@registration.register
def _(surface: PositiveDefinite) -> Register:
    return _starting_there("positive_definite")


@registration.register
def _(surface: LowRank) -> Register:
    return _starting_there("low_rank", surface.rank)


METHODS = (
    Method(
        name="geotorch",
        title="geotorch expm",
        family="geotorch",
        description="geotorch's parametrizations (orthogonal by the exponential map, grassmannian, "
        "sphere, symmetric, positive_definite, low_rank), cached; torch's Adam on `original`.",
        attach=functools.partial(attach, register=registration, cached=True),
        check=needs("geotorch", all_surfaces(registration)),
        grid=ADAM_GRID,
        stepping=stepping_of_a_parametrization(),
        packages=("torch", "geotorch"),
    ),
)
