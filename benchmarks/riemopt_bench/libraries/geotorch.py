"""geotorch: a parametrization by the exponential map, with torch's Adam on its `original`."""

from __future__ import annotations

import functools

from torch import Tensor, nn

from riemopt_bench.interface import Method, all_surfaces, unknown
from riemopt_bench.libraries.parametrize import (
    Register,
    as_matrix,
    attach,
    stepping_of_a_parametrization,
)
from riemopt_bench.surfaces import Stiefel, Surface


@functools.singledispatch
def registration(surface: Surface) -> Register:
    """A function that registers geotorch's parametrization on a module's parameter."""
    raise unknown("geotorch", surface)


@registration.register
def _(surface: Stiefel) -> Register:
    return functools.partial(as_matrix, _orthogonal) if surface.kernel else _orthogonal


def _orthogonal(module: nn.Module, attribute: str) -> None:
    import geotorch

    weight: Tensor = getattr(module, attribute)
    start = weight.detach().clone()
    geotorch.orthogonal(module, attribute)
    setattr(module, attribute, start)


METHODS = (
    Method(
        name="geotorch",
        title="geotorch expm",
        family="geotorch",
        description="geotorch.orthogonal: weight, backward and torch's Adam on `original`.",
        attach=functools.partial(attach, register=registration),
        check=all_surfaces(registration),
        stepping=stepping_of_a_parametrization(),
        packages=("torch", "geotorch"),
    ),
)
