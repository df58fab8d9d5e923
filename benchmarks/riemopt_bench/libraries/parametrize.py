"""`torch.nn.utils.parametrize` with torch's Adam: an unconstrained `original` per weight.

Orthogonal weights use torch's own `parametrizations.orthogonal` with each of its three maps, with
and without `parametrize.cached()`. Torch ships no symmetric or unit-norm parametrization; the two
here are the ones that its documentation teaches.

`weight_decay` must be 0: the householder map keeps ±1 signs on the diagonal of `original` and reads
them with `.int()`, so that any decay turns them, and the weight, into 0.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import parametrize as torch_parametrize

from riemopt_bench.interface import (
    ADAM_GRID,
    Attached,
    Case,
    Method,
    Skip,
    Stepping,
    Task,
    all_surfaces,
    unknown,
)
from riemopt_bench.libraries._layout import original_of, show_as
from riemopt_bench.libraries._steps import ADAM_LR
from riemopt_bench.surfaces import Sphere, Stiefel, Surface, Symmetric

MAPS = ("householder", "matrix_exp", "cayley")
Register = Callable[[nn.Module, str], object]


class UpperTriangle(nn.Module):
    """Symmetric weight from the upper triangle of `original`."""

    def forward(self, original: Tensor) -> Tensor:
        """U + (strict U)ᵀ."""
        return original.triu() + original.triu(1).mT

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The upper triangle of a symmetric weight."""
        return weight.triu()


class UnitNorm(nn.Module):
    """Unit slices along `dim` from slices of any length."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, original: Tensor) -> Tensor:
        """x/‖x‖."""
        return original / torch.linalg.vector_norm(original, dim=self.dim, keepdim=True)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A unit vector is its own pre-image."""
        return weight


@functools.singledispatch
def registration(surface: Surface, orthogonal_map: str = MAPS[0]) -> Register:
    """A function that registers a parametrization of the surface on a module's parameter."""
    raise unknown("parametrize", surface)


@registration.register
def _(surface: Stiefel, orthogonal_map: str = MAPS[0]) -> Register:
    one = functools.partial(parametrizations.orthogonal, orthogonal_map=orthogonal_map)
    return functools.partial(as_matrix, one) if surface.kernel else one


@registration.register
def _(surface: Symmetric, orthogonal_map: str = MAPS[0]) -> Register:
    return lambda module, attribute: torch_parametrize.register_parametrization(
        module, attribute, UpperTriangle()
    )


@registration.register
def _(surface: Sphere, orthogonal_map: str = MAPS[0]) -> Register:
    return lambda module, attribute: torch_parametrize.register_parametrization(
        module, attribute, UnitNorm(surface.dim)
    )


def as_matrix(register: Register, module: nn.Module, attribute: str) -> None:
    """Parametrize a convolution kernel as its matrix."""
    kernel: Tensor = getattr(module, attribute)
    setattr(module, attribute, nn.Parameter(kernel.detach().flatten(1)))
    register(module, attribute)
    show_as(module, attribute, lambda matrix: matrix.reshape(kernel.shape))


def attach(
    task: Task,
    lr: float,
    register: Callable[[Surface], Register],
    *,
    cached: bool = False,
    foreach: bool | None = None,
) -> Attached:
    """Register one parametrization per constrained weight; Adam moves the originals.

    Never fused Adam, as geotorch's `original` is not contiguous: # workaround: fused_adam_strides
    """
    for name, surface in task.surfaces.items():
        register(surface)(*task.place(name))
    originals = {name: original_of(*task.place(name)) for name in task.surfaces}
    optimizer = torch.optim.Adam(task.model.parameters(), lr=lr, weight_decay=0, foreach=foreach)
    return Attached(
        optimizer,
        optimizer.step,
        stored=lambda: originals,
        used=task.weights,
        originals=lambda: originals,
        forward_context=torch_parametrize.cached if cached else contextlib.nullcontext,
    )


def _check(orthogonal_map: str, cached: bool) -> Callable[[Case], None]:
    def check(case: Case) -> None:
        all_surfaces(registration)(case)
        orthogonal = any(isinstance(surface, Stiefel) for surface in case.surfaces)
        if not orthogonal and orthogonal_map != MAPS[0]:
            raise Skip(
                "no orthogonal weight, so the three maps are one method here",
                same_as=_name(MAPS[0], cached),
            )

    return check


def _name(orthogonal_map: str, cached: bool) -> str:
    return f"parametrize-{orthogonal_map.replace('_', '-')}" + ("-cached" if cached else "")


def stepping_of_a_parametrization() -> Stepping:
    """A parametrization is timed with the forward in which it computes its weights."""
    return Stepping(
        ADAM_LR,
        lambda workload: workload.is_only(Stiefel),
        ("riemopt-adam-share",),
        heavy=True,
        whole_step=True,
        options={"foreach": True},
    )


def _method(orthogonal_map: str, cached: bool) -> Method:
    within = ", inside parametrize.cached()" if cached else ""
    register = functools.partial(registration, orthogonal_map=orthogonal_map)
    return Method(
        name=_name(orthogonal_map, cached),
        title=f"parametrize {orthogonal_map}" + (", cached" if cached else ""),
        family="parametrize",
        description=f"Adam on `original`, orthogonal map {orthogonal_map}{within}.",
        attach=functools.partial(attach, register=register, cached=cached),
        check=_check(orthogonal_map, cached),
        grid=ADAM_GRID,
        tuned_as=_name(orthogonal_map, cached=False) if cached else None,
        stepping=None if cached else stepping_of_a_parametrization(),
    )


METHODS = tuple(_method(m, cached) for m in MAPS for cached in (False, True))
