"""geoopt's optimizers as shipped (`stabilize=None`), on all of its manifolds that are asked for.

geoopt takes tall matrices only: a wide one is stored transposed, a convolution kernel as a matrix.
It has no manifold of plain symmetric matrices. Here such a weight is an ordinary parameter whose
gradient is symmetrised before the step: elementwise Adam on a symmetric gradient keeps a symmetric
weight symmetric. That line runs on the optimizer's clock.

Its Adam divides by the norm of the whole gradient, so that a step is as long as the learning rate
however large the weight. Here each weight's rate is multiplied such that entries move by about
`lr`, as with Adam: one grid then suits weights of all sizes, and the parameters beside them.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from riemopt_bench.interface import (
    ADAM_GRID,
    Attached,
    Method,
    Skip,
    Stepping,
    Task,
    all_surfaces,
    unknown,
)
from riemopt_bench.libraries._layout import original_of, show_as
from riemopt_bench.libraries._packages import needs
from riemopt_bench.libraries._steps import (
    ADAM_LR,
    MOMENTUM,
    SGD_LR,
    Rule,
    gradient_size,
    point_norm,
)
from riemopt_bench.surfaces import (
    PoincareBall,
    PositiveDefinite,
    Sphere,
    Stiefel,
    Surface,
    Symmetric,
)


@functools.singledispatch
def manifold(surface: Surface, canonical: bool = False) -> Any:
    """geoopt's manifold of a surface."""
    raise unknown("geoopt", surface)


@manifold.register
def _(surface: Stiefel, canonical: bool = False) -> Any:
    import geoopt

    return geoopt.CanonicalStiefel() if canonical else geoopt.EuclideanStiefel()


@manifold.register
def _(surface: Sphere, canonical: bool = False) -> Any:
    import geoopt

    if surface.dim != -1:
        raise Skip(f"geoopt.Sphere works along dim -1 only; got dim {surface.dim}")
    return geoopt.Sphere()


@manifold.register
def _(surface: Symmetric, canonical: bool = False) -> Any:
    import geoopt

    return geoopt.Euclidean()


@manifold.register
def _(surface: PositiveDefinite, canonical: bool = False) -> Any:
    import geoopt

    return geoopt.SymmetricPositiveDefinite()


@manifold.register
def _(surface: PoincareBall, canonical: bool = False) -> Any:
    import geoopt

    return geoopt.PoincareBall()


def attach(
    task: Task,
    lr: float,
    *,
    rule: Rule = "adam",
    canonical: bool = False,
) -> Attached:
    """Replace constrained parameters by geoopt's, and give all to geoopt's optimizer.

    A learning rate of its own for each weight makes steps as long as others'.
    """
    import geoopt

    groups: dict[float, list[Tensor]] = {}
    for name, parameter in list(task.model.named_parameters()):
        surface, factor, moved = task.surfaces.get(name), 1.0, parameter.detach()
        if surface is not None:
            moved = _store(task, name, surface, canonical)
            factor = _factor(surface, tuple(parameter.shape), rule, canonical)
        groups.setdefault(lr * factor, []).append(parameter if surface is None else moved)
    described = [{"params": members, "lr": one} for one, members in groups.items()]
    optimizer: torch.optim.Optimizer
    if rule == "sgd":
        optimizer = geoopt.optim.RiemannianSGD(described, lr=lr, momentum=MOMENTUM)
    else:
        optimizer = geoopt.optim.RiemannianAdam(described, lr=lr, weight_decay=0)
    symmetric = [n for n, surface in task.surfaces.items() if isinstance(surface, Symmetric)]
    step = functools.partial(_symmetric_step, optimizer, [task.weight(n) for n in symmetric])
    return Attached.to_stored_weights(task, optimizer, step if symmetric else None)


def _symmetric_step(optimizer: torch.optim.Optimizer, weights: list[Tensor]) -> None:
    for weight in weights:
        if weight.grad is not None:
            weight.grad = (weight.grad + weight.grad.mT) / 2
    optimizer.step()


def _store(task: Task, name: str, surface: Surface, canonical: bool) -> Tensor:
    """Put a parameter of geoopt in the weight's place, in the layout that geoopt takes."""
    import geoopt

    module, attribute = task.place(name)
    weight = task.weight(name).detach()
    point = surface.tall(weight) if isinstance(surface, Stiefel) else weight
    kept: nn.Parameter = geoopt.ManifoldParameter(
        point.clone(memory_format=torch.contiguous_format), manifold=manifold(surface, canonical)
    )
    setattr(module, attribute, kept)
    if isinstance(surface, Stiefel) and kept.shape != weight.shape:
        show_as(module, attribute, lambda tall: surface.from_tall(tall, weight.shape))
        return original_of(module, attribute)
    return kept


def _factor(surface: Surface, shape: tuple[int, ...], rule: Rule, canonical: bool) -> float:
    """By what to multiply the learning rate so that steps are as long as other methods'.

    geoopt's Adam divides by the norm of the gradient in the metric; in the Poincaré ball `lr` is a
    hyperbolic length, and plain entries are stepped one by one. Its canonical retraction moves by
    twice the part of the canonical gradient that lies in the columns' span.
    """
    if isinstance(surface, Symmetric | PoincareBall):
        return 1.0
    size = 1.0
    if canonical and isinstance(surface, Stiefel):
        size = gradient_size(surface, shape, 4)
        if rule == "sgd":
            size /= gradient_size(surface, shape, 1)
    return (point_norm(surface, shape) if rule == "adam" else 1) / size


def _stepping_method(kind: str, rule: Rule, title: str) -> Method:
    canonical = kind == "CanonicalStiefel"
    optimizer = "RiemannianSGD, momentum .9" if rule == "sgd" else "RiemannianAdam"
    lr = SGD_LR if rule == "sgd" else ADAM_LR

    def where(workload: Any) -> bool:
        if kind == "Sphere":
            return bool(workload.is_only(Sphere))
        return bool(workload.is_only(Stiefel, or_plain=rule == "adam"))

    return Method(
        f"geoopt-{kind.removesuffix('Stiefel').lower()}-{rule}",
        title,
        "geoopt",
        f"geoopt.{kind} with geoopt's {optimizer}.",
        functools.partial(attach, rule=rule, canonical=canonical),
        needs("geoopt", all_surfaces(manifold)),
        stepping=Stepping(lr, where, (f"riemopt-{rule}",), heavy=canonical),
        packages=("torch", "geoopt"),
    )


def _method(rule: Rule, title: str) -> Method:
    return Method(
        name=f"geoopt-{rule}",
        title=title,
        family="geoopt",
        description=f"{title} on EuclideanStiefel, Sphere, SymmetricPositiveDefinite and "
        "PoincareBall parameters" + (", momentum .9." if rule == "sgd" else "."),
        attach=functools.partial(attach, rule=rule),
        check=needs("geoopt", all_surfaces(manifold)),
        grid=ADAM_GRID,
        packages=("torch", "geoopt"),
    )


METHODS = (
    _method("adam", "geoopt RiemannianAdam"),
    _method("sgd", "geoopt RiemannianSGD"),
    _stepping_method("EuclideanStiefel", "sgd", "geoopt Euclidean SGD"),
    _stepping_method("EuclideanStiefel", "adam", "geoopt Euclidean Adam"),
    _stepping_method("CanonicalStiefel", "sgd", "geoopt canonical SGD"),
    _stepping_method("CanonicalStiefel", "adam", "geoopt canonical Adam"),
    _stepping_method("Sphere", "sgd", "geoopt SGD"),
    _stepping_method("Sphere", "adam", "geoopt Adam"),
)
