"""`torch.nn.utils.parametrize` with torch's Adam: an unconstrained `original` per weight.

Orthogonal weights use torch's own `parametrizations.orthogonal` with each of its three maps, with
and without `parametrize.cached()`. Torch ships no other parametrization of a surface; those here
are the ones that its documentation teaches, or that a careful user writes. Each has an inverse, so
that training starts at the task's weight.

`weight_decay` must be 0: the householder map keeps ±1 signs on the diagonal of `original` and reads
them with `.int()`, so that any decay turns them, and the weight, into 0. One method has the decay
that AdamW applies unless told otherwise, and shows what comes of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import parametrize as torch_parametrize

from riemopt_bench.interface import (
    ADAM_GRID,
    Case,
    Method,
    Skip,
    Stepping,
    all_surfaces,
    unknown,
)
from riemopt_bench.libraries._parametrized import (
    Register,
    as_matrix,
    attach,
    stepping_of_a_parametrization,
)
from riemopt_bench.surfaces import (
    LowRank,
    PoincareBall,
    PositiveDefinite,
    Sphere,
    Stiefel,
    Surface,
    Symmetric,
)

MAPS = ("householder", "matrix_exp", "cayley")
IMPOSE_EVERY = 100
DECAY = 0.01  # AdamW's default
RIM = 1 - 1e-6  # of the ball, in float32


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


class LogCholesky(nn.Module):
    """Positive definite weight from the Cholesky factor, of whose diagonal the logarithm is kept.

    As Pinheiro & Bates (1996) parametrize covariances.
    """

    def forward(self, original: Tensor) -> Tensor:
        """LLᵀ with L = strict lower triangle + exp(diagonal)."""
        diagonal = original.diagonal(dim1=-2, dim2=-1).exp()
        L = original.tril(-1) + diagonal.diag_embed()
        return L @ L.mT

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The factor of a positive definite weight."""
        L = torch.linalg.cholesky(weight)
        return L.tril(-1) + L.diagonal(dim1=-2, dim2=-1).log().diag_embed()


class Factors(nn.Module):
    """Low-rank weight from two factors, stored as one tensor of n + m rows."""

    def __init__(self, rows: int, rank: int) -> None:
        super().__init__()
        self.rows, self.rank = rows, rank

    def forward(self, original: Tensor) -> Tensor:
        """ABᵀ of the stacked A (n×r) and B (m×r)."""
        return original[..., : self.rows, :] @ original[..., self.rows :, :].mT

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Balanced factors US^½ and VS^½ of the weight's singular value decomposition."""
        U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
        root = S[..., None, : self.rank].sqrt()
        return torch.cat([U[..., : self.rank] * root, Vh[..., : self.rank, :].mT * root], -2)


class Squash(nn.Module):
    """Rows in the unit ball from rows of any length: the ball's exponential map at the centre."""

    def forward(self, original: Tensor) -> Tensor:
        """tanh(‖x‖)·x/‖x‖."""
        norm = torch.linalg.vector_norm(original, dim=-1, keepdim=True).clamp(min=1e-15)
        return original * (RIM * norm.tanh() / norm)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """artanh(‖y‖)·y/‖y‖."""
        norm = torch.linalg.vector_norm(weight, dim=-1, keepdim=True).clamp(min=1e-15)
        return weight * ((norm / RIM).atanh() / norm)


@functools.singledispatch
def registration(
    surface: Surface, orthogonal_map: str | None = MAPS[0], **options: Any
) -> Register:
    """A function that registers a parametrization of the surface on a module's parameter.

    `orthogonal_map` and `options` are those of torch's orthogonal parametrization; without a map it
    is torch's choice.
    """
    raise unknown("parametrize", surface)


@registration.register
def _(surface: Stiefel, orthogonal_map: str | None = MAPS[0], **options: Any) -> Register:
    one = functools.partial(parametrizations.orthogonal, orthogonal_map=orthogonal_map, **options)
    return functools.partial(as_matrix, one) if surface.kernel else one


def _register(make: Callable[[Tensor], nn.Module], unsafe: bool = False) -> Register:
    """Register what `make` makes for the weight; `unsafe` if `original` has another shape."""
    return lambda module, attribute: torch_parametrize.register_parametrization(
        module, attribute, make(getattr(module, attribute)), unsafe=unsafe
    )


@registration.register
def _(surface: Symmetric, orthogonal_map: str | None = None, **options: Any) -> Register:
    return _register(lambda weight: UpperTriangle())


@registration.register
def _(surface: Sphere, orthogonal_map: str | None = None, **options: Any) -> Register:
    return _register(lambda weight: UnitNorm(surface.dim))


@registration.register
def _(surface: PositiveDefinite, orthogonal_map: str | None = None, **options: Any) -> Register:
    return _register(lambda weight: LogCholesky())


@registration.register
def _(surface: LowRank, orthogonal_map: str | None = None, **options: Any) -> Register:
    return _register(lambda weight: Factors(weight.shape[-2], surface.rank), unsafe=True)


@registration.register
def _(surface: PoincareBall, orthogonal_map: str | None = None, **options: Any) -> Register:
    return _register(lambda weight: Squash())


def _check(same_as: str | None) -> Callable[[Case], None]:
    """Where there is no orthogonal weight, the method is the same as that one."""

    def check(case: Case) -> None:
        all_surfaces(registration)(case)
        orthogonal = any(isinstance(surface, Stiefel) for surface in case.surfaces)
        if same_as is not None and not orthogonal:
            raise Skip("no orthogonal weight, which is all that it does otherwise", same_as=same_as)

    return check


def _method(
    name: str,
    title: str,
    description: str,
    same_as: str | None = None,
    *,
    register: dict[str, Any],
    attach_with: dict[str, Any] | None = None,
    tuned_as: str | None = None,
    stepping: Stepping | None = None,
    constrained: bool = True,
) -> Method:
    return Method(
        name=name,
        title=title,
        family="parametrize",
        description=description,
        attach=functools.partial(
            attach, register=functools.partial(registration, **register), **(attach_with or {})
        ),
        check=_check(same_as),
        grid=ADAM_GRID,
        tuned_as=tuned_as,
        stepping=stepping,
        constrained=constrained,
    )


def _name(orthogonal_map: str, cached: bool) -> str:
    return f"parametrize-{orthogonal_map.replace('_', '-')}" + ("-cached" if cached else "")


def _with_map(orthogonal_map: str, cached: bool) -> Method:
    within = ", inside parametrize.cached()" if cached else ""
    return _method(
        _name(orthogonal_map, cached),
        f"parametrize {orthogonal_map}" + (", cached" if cached else ""),
        f"Adam on `original`, orthogonal map {orthogonal_map}{within}.",
        same_as=_name(MAPS[0], cached) if orthogonal_map != MAPS[0] else None,
        register={"orthogonal_map": orthogonal_map},
        attach_with={"cached": cached},
        tuned_as=None if cached else _name(orthogonal_map, cached=True),
        stepping=None if cached else stepping_of_a_parametrization(),
    )


METHODS = (
    *(_with_map(m, cached) for m in MAPS for cached in (False, True)),
    # Of the three maps the only one that can be given a start without a trivialization.
    _method(
        "parametrize-householder-static",
        "parametrize householder, static",
        "Adam on `original`, householder map with use_trivialization=False, cached.",
        same_as=_name(MAPS[0], cached=True),
        register={"orthogonal_map": MAPS[0], "use_trivialization": False},
        attach_with={"cached": True},
    ),
    _method(
        "parametrize-imposed",
        f"parametrize, imposed every {IMPOSE_EVERY} steps",
        f"Adam on `original`, map matrix_exp, cached; every {IMPOSE_EVERY} steps the weight is "
        "assigned to itself: it is the new base point (Lezcano-Casado 2019), or x/‖x‖ the new x.",
        register={"orthogonal_map": "matrix_exp"},
        attach_with={"cached": True, "impose_every": IMPOSE_EVERY},
    ),
    _method(
        "parametrize-decayed",
        "parametrize, AdamW as it comes",
        f"AdamW on all parameters with its default weight_decay={DECAY}, which acts on `original`; "
        "torch's choice of the map, cached. The householder map takes the weight to 0.",
        register={"orthogonal_map": None},
        attach_with={"cached": True, "weight_decay": DECAY},
        constrained=False,
    ),
)
