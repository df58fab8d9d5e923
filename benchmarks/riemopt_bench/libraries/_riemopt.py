"""riemopt's manifolds of the surfaces."""

from __future__ import annotations

import functools
from collections.abc import Callable

from riemopt import Manifold, ManifoldParameter, manifolds
from riemopt_bench.interface import Skip, Task, unknown
from riemopt_bench.surfaces import (
    LowRank,
    PoincareBall,
    PositiveDefinite,
    Rotation,
    Sphere,
    Stiefel,
    Subspace,
    Surface,
    Symmetric,
)


@functools.singledispatch
def manifold(surface: Surface) -> Manifold:
    """riemopt's manifold of a surface."""
    raise unknown("riemopt", surface)


def _of_matrices(surface: Stiefel, base: Manifold) -> Manifold:
    return manifolds.Flattened(base) if surface.kernel else base


@manifold.register
def _(surface: Stiefel) -> Manifold:
    return _of_matrices(surface, manifolds.Stiefel())


@manifold.register
def _(surface: Subspace) -> Manifold:
    return _of_matrices(surface, manifolds.Grassmann())


@manifold.register
def _(surface: Rotation) -> Manifold:
    return _of_matrices(surface, manifolds.SpecialOrthogonal())


@manifold.register
def _(surface: Symmetric) -> Manifold:
    return manifolds.Symmetric()


@manifold.register
def _(surface: Sphere) -> Manifold:
    return manifolds.Sphere(dim=surface.dim)


@manifold.register
def _(surface: PositiveDefinite) -> Manifold:
    return manifolds.SPD("affine")


@manifold.register
def _(surface: LowRank) -> Manifold:
    return manifolds.FixedRank(surface.rank)


@manifold.register
def _(surface: PoincareBall) -> Manifold:
    return manifolds.PoincareBall()


@functools.singledispatch
def level_set(surface: Surface) -> Manifold:
    """The set where the surface's residual is zero, of which riemopt is told nothing else."""
    raise Skip(f"{type(surface).__name__} is not given by smooth equations")


@level_set.register
def _(surface: Stiefel) -> Manifold:
    return manifolds.LevelSet(surface.residual, event_ndim=None if surface.kernel else 2)


@level_set.register
def _(surface: Symmetric) -> Manifold:
    return manifolds.LevelSet(surface.residual, event_ndim=2)


@level_set.register
def _(surface: Sphere) -> Manifold:
    return manifolds.LevelSet(surface.residual, event_ndim=1 if surface.dim == -1 else None)


def constrain_all(task: Task, manifold_of: Callable[[Surface], Manifold] = manifold) -> None:
    """Make every constrained weight a `ManifoldParameter`."""
    for name, surface in task.surfaces.items():
        weight = ManifoldParameter(task.weight(name).detach(), manifold_of(surface))
        setattr(*task.place(name), weight)
