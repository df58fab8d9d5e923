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
    Method,
    Problem,
    Skip,
    Task,
    owner,
    weights,
)

MAPS = ("householder", "matrix_exp", "cayley")


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


def attach(task: Task, lr: float, *, orthogonal_map: str, cached: bool) -> Attached:
    """Register one parametrization per constrained weight; Adam moves the originals."""
    for name, constraint in task.constraints.items():
        module, attribute = owner(task.model, name)
        if constraint.kind == "stiefel":
            parametrizations.orthogonal(module, attribute, orthogonal_map=orthogonal_map)
        elif constraint.kind == "symmetric":
            torch_parametrize.register_parametrization(module, attribute, UpperTriangle())
        else:
            torch_parametrize.register_parametrization(module, attribute, UnitNorm(constraint.dim))
    originals = {name: _original(*owner(task.model, name)) for name in task.constraints}
    optimizer = torch.optim.Adam(task.model.parameters(), lr=lr, weight_decay=0)
    current = functools.partial(weights, task)
    return Attached(
        optimizer,
        optimizer.step,
        stored=lambda: originals,
        used=current,
        originals=lambda: originals,
        forward_context=torch_parametrize.cached if cached else contextlib.nullcontext,
    )


def _original(module: nn.Module, attribute: str) -> Tensor:
    tensor = module.get_submodule(f"parametrizations.{attribute}").original
    assert isinstance(tensor, Tensor)
    return tensor


def _skip(orthogonal_map: str, cached: bool) -> Callable[[Problem], Skip | None]:
    def skip(problem: Problem) -> Skip | None:
        if "stiefel" in problem.kinds or orthogonal_map == MAPS[0]:
            return None
        return Skip(
            "no orthogonal weight, so the three maps are one method here",
            same_as=_name(MAPS[0], cached),
        )

    return skip


def _name(orthogonal_map: str, cached: bool) -> str:
    return f"parametrize-{orthogonal_map.replace('_', '-')}" + ("-cached" if cached else "")


def _method(orthogonal_map: str, cached: bool) -> Method:
    within = ", inside parametrize.cached()" if cached else ""
    return Method(
        name=_name(orthogonal_map, cached),
        title=f"parametrize {orthogonal_map}" + (", cached" if cached else ""),
        family="parametrize",
        description=f"Adam on `original`, orthogonal map {orthogonal_map}{within}.",
        attach=functools.partial(attach, orthogonal_map=orthogonal_map, cached=cached),
        grid=ADAM_GRID,
        skip=_skip(orthogonal_map, cached),
        tuned_as=_name(orthogonal_map, cached=False) if cached else None,
    )


METHODS = tuple(_method(m, cached) for m in MAPS for cached in (False, True))
