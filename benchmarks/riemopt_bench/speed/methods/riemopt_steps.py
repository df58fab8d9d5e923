"""riemopt's optimizers: as they are, one by one, compiled, and within a training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from riemopt import ManifoldParameter, RiemannianAdam, RiemannianSGD
from riemopt.manifolds import Flattened, Manifold, Sphere, Stiefel, Symmetric
from riemopt_bench.speed.interface import Attached, Item, Method, Start, Workload
from riemopt_bench.speed.methods._common import (
    ADAM_LR,
    MOMENTUM,
    SGD_LR,
    only,
    state_tensors,
    stepped,
    with_gradients,
)
from riemopt_bench.speed.methods._share import share


def _manifold(item: Item) -> Manifold | None:
    if item.kind == "stiefel":
        return Flattened(Stiefel()) if len(item.shape) == 4 else Stiefel()
    return {"sphere": Sphere(), "symmetric": Symmetric()}.get(item.kind)


def _parameters(starts: Sequence[Start]) -> list[nn.Parameter]:
    params: list[nn.Parameter] = []
    for start in starts:
        manifold, point = _manifold(start.item), start.point.clone()
        param = nn.Parameter(point) if manifold is None else ManifoldParameter(point, manifold)
        with torch.no_grad():
            param.copy_(start.point)  # the nearest point differs in the last bit
        params.append(param)
    return params


def attach_adam(starts: Sequence[Start], **options: Any) -> Attached:
    """`RiemannianAdam` over all tensors in one group."""
    params = _parameters(starts)
    with_gradients(starts, params)
    return stepped(starts, params, RiemannianAdam(params, lr=ADAM_LR, **options))


def attach_sgd(starts: Sequence[Start]) -> Attached:
    """`RiemannianSGD` with momentum."""
    params = _parameters(starts)
    with_gradients(starts, params)
    return stepped(starts, params, RiemannianSGD(params, lr=SGD_LR, momentum=MOMENTUM))


def attach_compiled(starts: Sequence[Start]) -> Attached:
    """The step of `RiemannianAdam` through `torch.compile`, after one eager step made the state."""
    params = _parameters(starts)
    with_gradients(starts, params)
    optimizer = RiemannianAdam(params, lr=ADAM_LR)
    optimizer.step()
    for start, param in zip(starts, params, strict=True):
        param.data.copy_(start.point)
    step = type(optimizer).step
    return stepped(starts, params, optimizer, torch.compile(lambda: step(optimizer)), eager=False)


def attach_share(starts: Sequence[Start]) -> Attached:
    """What a training step pays for the constraint: the weight is there, backward ends at it."""
    params = _parameters(starts)
    optimizer = RiemannianAdam(params, lr=ADAM_LR)
    return share(
        starts,
        weights=lambda: params,
        moved=params,
        optimizer=optimizer,
        held=lambda: [*params, *state_tensors(optimizer)],
    )


def attach_foreach(starts: Sequence[Start]) -> Attached:
    """`foreach=True`, which unconstrained tensors hand to torch's own implementation."""
    return attach_adam(starts, foreach=True)


def attach_fused(starts: Sequence[Start]) -> Attached:
    """`fused=True`, likewise."""
    return attach_adam(starts, fused=True)


def attach_loop(starts: Sequence[Start]) -> Attached:
    """`foreach=False`: one parameter after the other."""
    return attach_adam(starts, foreach=False)


def _constrained(workload: Workload) -> bool:
    return "plain" not in workload.kinds


def _model(workload: Workload) -> bool:
    return "plain" in workload.kinds


METHODS = (
    Method(
        "riemopt-sgd",
        "riemopt SGD",
        "riemopt",
        "RiemannianSGD, momentum .9.",
        attach_sgd,
        _constrained,
    ),
    Method(
        "riemopt-adam",
        "riemopt Adam",
        "riemopt",
        "RiemannianAdam with its defaults.",
        attach_adam,
        lambda workload: True,
    ),
    Method(
        "riemopt-adam-foreach",
        "riemopt Adam, foreach",
        "riemopt",
        "RiemannianAdam(foreach=True) on models.",
        attach_foreach,
        _model,
    ),
    Method(
        "riemopt-adam-fused",
        "riemopt Adam, fused",
        "riemopt",
        "RiemannianAdam(fused=True) on models.",
        attach_fused,
        _model,
    ),
    Method(
        "riemopt-adam-loop",
        "riemopt Adam, loop",
        "riemopt",
        "RiemannianAdam(foreach=False) on separate parameters of one shape.",
        attach_loop,
        lambda workload: workload.has_many and workload.is_stiefel,
        ("riemopt-adam",),
    ),
    Method(
        "riemopt-adam-compiled",
        "riemopt Adam, compiled",
        "riemopt",
        "RiemannianAdam's step through torch.compile, on spheres.",
        attach_compiled,
        only("sphere"),
        ("riemopt-adam",),
    ),
    Method(
        "riemopt-adam-share",
        "riemopt Adam, training share",
        "riemopt",
        "Backward to the stored weight and RiemannianAdam's step.",
        attach_share,
        only("stiefel"),
    ),
)
