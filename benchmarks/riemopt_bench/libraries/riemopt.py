"""riemopt: each constrained weight is a `ManifoldParameter`, and one optimizer steps all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from riemopt import Manifold, ManifoldParameter, RiemannianAdam, RiemannianSGD, manifolds
from riemopt_bench.interface import (
    ADAM_GRID,
    SGD_GRID,
    Attached,
    Method,
    Stepping,
    Task,
    all_surfaces,
    unknown,
)
from riemopt_bench.libraries._steps import ADAM_LR, MOMENTUM, SGD_LR
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

if TYPE_CHECKING:
    from riemopt_bench.speed.workloads import Workload

# The second moments of Adam that the step benchmark times, by the name of the method: add new ones
# here. Numbers under the name riemopt-adam are those of "point" from the start, whatever the
# default is; training takes the default.
SECOND_MOMENTS = {
    "riemopt-adam": "point",
    "riemopt-adam-tangent": "tangent",
    "riemopt-adam-carried": "carried",
}


@functools.singledispatch
def manifold(surface: Surface) -> Manifold:
    """riemopt's manifold of a surface."""
    raise unknown("riemopt", surface)


@manifold.register
def _(surface: Stiefel) -> Manifold:
    return manifolds.Flattened(manifolds.Stiefel()) if surface.kernel else manifolds.Stiefel()


@manifold.register
def _(surface: Symmetric) -> Manifold:
    return manifolds.Symmetric()


@manifold.register
def _(surface: Sphere) -> Manifold:
    return manifolds.Sphere(dim=surface.dim)


@manifold.register
def _(surface: Subspace) -> Manifold:
    return manifolds.Grassmann()


@manifold.register
def _(surface: Rotation) -> Manifold:
    return manifolds.SpecialOrthogonal()


@manifold.register
def _(surface: PositiveDefinite) -> Manifold:
    return manifolds.SPD("affine")


@manifold.register
def _(surface: LowRank) -> Manifold:
    return manifolds.FixedRank(surface.rank)


def _constrain_all(task: Task) -> None:
    for name, surface in task.surfaces.items():
        weight = ManifoldParameter(task.weight(name).detach(), manifold(surface))
        setattr(*task.place(name), weight)


def attach_adam(task: Task, lr: float, **options: Any) -> Attached:
    """`RiemannianAdam` over all parameters in one group."""
    _constrain_all(task)
    optimizer = RiemannianAdam(task.model.parameters(), lr=lr, **options)
    return Attached.to_stored_weights(task, optimizer)


def attach_sgd(task: Task, lr: float) -> Attached:
    """`RiemannianSGD` with momentum."""
    _constrain_all(task)
    optimizer = RiemannianSGD(task.model.parameters(), lr=lr, momentum=MOMENTUM)
    return Attached.to_stored_weights(task, optimizer)


def attach_compiled_adam(task: Task, lr: float, **options: Any) -> Attached:
    """The step through `torch.compile`, after an eager step with no gradient made the state."""
    _constrain_all(task)
    optimizer = RiemannianAdam(task.model.parameters(), lr=lr, **options)
    for parameter in task.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    step = type(optimizer).step
    compiled = torch.compile(lambda: step(optimizer))
    return Attached.to_stored_weights(task, optimizer, compiled, eager=False)


def _method(
    name: str,
    title: str,
    description: str,
    attach: Callable[..., Attached],
    stepping: Stepping,
    grid: tuple[float, ...] = (),
) -> Method:
    return Method(
        name,
        title,
        "riemopt",
        description,
        attach,
        all_surfaces(manifold),
        grid,
        stepping=stepping,
        packages=("torch", "riemopt"),
    )


def _timed(
    where: Callable[[Workload], bool],
    *counterparts: str,
    second_moment: str = SECOND_MOMENTS["riemopt-adam"],
    whole_step: bool = False,
    **options: Any,
) -> Stepping:
    """Adam in the step benchmark."""
    options["second_moment"] = second_moment
    return Stepping(ADAM_LR, where, counterparts, whole_step=whole_step, options=options)


METHODS = (
    _method(
        "riemopt-adam",
        "riemopt Adam",
        "riemopt.RiemannianAdam: tangent gradients, the stored weight is constrained.",
        attach_adam,
        _timed(lambda workload: True),
        ADAM_GRID,
    ),
    _method(
        "riemopt-sgd",
        "riemopt SGD",
        "riemopt.RiemannianSGD with momentum 0.9.",
        attach_sgd,
        Stepping(SGD_LR, lambda workload: not workload.has_plain),
        SGD_GRID,
    ),
    *(
        _method(
            name,
            f"riemopt Adam, {which}",
            f'RiemannianAdam(second_moment="{which}").',
            attach_adam,
            _timed(lambda workload: not workload.has_plain, second_moment=which),
        )
        for name, which in SECOND_MOMENTS.items()
        if name != "riemopt-adam"
    ),
    _method(
        "riemopt-adam-foreach",
        "riemopt Adam, foreach",
        "RiemannianAdam(foreach=True) on models.",
        attach_adam,
        _timed(lambda workload: workload.has_plain, foreach=True),
    ),
    _method(
        "riemopt-adam-fused",
        "riemopt Adam, fused",
        "RiemannianAdam(fused=True) on models.",
        attach_adam,
        _timed(lambda workload: workload.has_plain, fused=True),
    ),
    _method(
        "riemopt-adam-loop",
        "riemopt Adam, loop",
        "RiemannianAdam(foreach=False) on separate parameters of one shape.",
        attach_adam,
        _timed(lambda w: w.has_many and w.is_only(Stiefel), "riemopt-adam", foreach=False),
    ),
    _method(
        "riemopt-adam-compiled",
        "riemopt Adam, compiled",
        "RiemannianAdam's step through torch.compile, on spheres.",
        attach_compiled_adam,
        _timed(lambda workload: workload.is_only(Sphere), "riemopt-adam"),
    ),
    _method(
        "riemopt-adam-share",
        "riemopt Adam, training share",
        "Backward to the stored weight and RiemannianAdam's step.",
        attach_adam,
        _timed(lambda workload: workload.is_only(Stiefel), whole_step=True),
    ),
)
