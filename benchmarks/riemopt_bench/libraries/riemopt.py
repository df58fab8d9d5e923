"""riemopt: each constrained weight is a `ManifoldParameter`, and one optimizer steps all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from riemopt import Manifold, RiemannianAdam, RiemannianMuon, RiemannianSGD
from riemopt_bench.interface import (
    ADAM_GRID,
    SGD_GRID,
    Attached,
    Case,
    Method,
    Skip,
    Stepping,
    Task,
    all_surfaces,
)
from riemopt_bench.libraries._riemopt import constrain_all, level_set, manifold
from riemopt_bench.libraries._steps import ADAM_LR, MOMENTUM, SGD_LR
from riemopt_bench.surfaces import Sphere, Stiefel, Surface

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


def attach_adam(
    task: Task,
    lr: float,
    manifold_of: Callable[[Surface], Manifold] = manifold,
    **options: Any,
) -> Attached:
    """`RiemannianAdam` over all parameters in one group."""
    constrain_all(task, manifold_of)
    optimizer = RiemannianAdam(task.model.parameters(), lr=lr, **options)
    return Attached.to_stored_weights(task, optimizer)


def attach_sgd(task: Task, lr: float) -> Attached:
    """`RiemannianSGD` with momentum."""
    constrain_all(task)
    optimizer = RiemannianSGD(task.model.parameters(), lr=lr, momentum=MOMENTUM)
    return Attached.to_stored_weights(task, optimizer)


def attach_muon(task: Task, lr: float) -> Attached:
    """`RiemannianMuon`, in the units of Adam's learning rate, and AdamW for what is no matrix."""
    constrain_all(task)
    optimizer = RiemannianMuon(
        task.model.parameters(),
        lr=lr,
        weight_decay=0,
        adjust_lr_fn="match_rms_adamw",
        adamw={"lr": lr, "weight_decay": 0},
    )
    return Attached.to_stored_weights(task, optimizer)


def check_muon(case: Case) -> None:
    """Muon needs a torch that has it, and a constrained weight that it steps itself."""
    all_surfaces(manifold)(case)
    if not hasattr(torch.optim, "Muon"):
        raise Skip(f"torch.optim.Muon needs torch 2.9; this is {torch.__version__}")
    if not any(isinstance(surface, Stiefel | Sphere) for surface in case.surfaces):
        raise Skip("no constrained weight here has a direction of Muon: they are stepped by AdamW")


def attach_compiled_adam(task: Task, lr: float, **options: Any) -> Attached:
    """The step through `torch.compile`, after an eager step with no gradient made the state."""
    constrain_all(task)
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
    stepping: Stepping | None,
    grid: tuple[float, ...] = (),
    check: Callable[[Case], None] = all_surfaces(manifold),  # noqa: B008 (a value)
) -> Method:
    return Method(
        name,
        title,
        "riemopt",
        description,
        attach,
        check,
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
    _method(
        "riemopt-adam-point",
        "riemopt Adam, one length a point",
        'RiemannianAdam(second_moment="point"): one second moment for a point (Bécigneul & Ganea '
        "2019), so that steps go along the mean gradient.",
        functools.partial(attach_adam, second_moment="point"),
        None,
        ADAM_GRID,
    ),
    _method(
        "riemopt-muon",
        "riemopt Muon",
        "riemopt.RiemannianMuon: steps along the tangent of spectral norm 1 that gains most, as "
        "long as Adam's; AdamW for what is no matrix.",
        attach_muon,
        None,
        ADAM_GRID,
        check_muon,
    ),
    _method(
        "riemopt-level-set",
        "riemopt Adam, c(x) = 0",
        "RiemannianAdam on riemopt.manifolds.LevelSet: the surface's equations are all that it is "
        "told, everything else is by autograd.",
        functools.partial(attach_adam, manifold_of=level_set),
        None,
        ADAM_GRID,
        all_surfaces(level_set),
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
