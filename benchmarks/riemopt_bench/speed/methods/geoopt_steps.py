"""geoopt's optimizers as shipped, `stabilize=None`: both Stiefel manifolds, and the sphere.

geoopt takes tall matrices only: a wide one is given transposed, a convolution kernel as a matrix.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from riemopt_bench.speed.interface import Attached, Item, Method, Start, Workload
from riemopt_bench.speed.methods._common import (
    ADAM_LR,
    MOMENTUM,
    SGD_LR,
    Rule,
    gradient_size,
    only,
    point_norm,
    stepped,
)

Surface = Literal["EuclideanStiefel", "CanonicalStiefel", "Sphere"]


def attach(starts: Sequence[Start], *, surface: Surface, rule: Rule) -> Attached:
    """geoopt parameters and its optimizer, one group per learning rate."""
    import geoopt

    manifold = getattr(geoopt, surface)()
    params: list[nn.Parameter] = []
    groups: dict[float, list[nn.Parameter]] = {}
    for start in starts:
        point = _tall(start.item, start.point).clone()
        if start.item.kind == "plain":
            param = nn.Parameter(point)
        else:
            param = geoopt.ManifoldParameter(point, manifold=manifold)
        param.grad = _tall(start.item, start.gradient).clone()
        params.append(param)
        groups.setdefault(_lr(start.item, surface, rule), []).append(param)
    described = [{"params": members, "lr": lr} for lr, members in groups.items()]
    return stepped(starts, params, _optimizer(described, rule))


def _optimizer(groups: list[dict[str, Any]], rule: Rule) -> torch.optim.Optimizer:
    import geoopt

    optimizer: torch.optim.Optimizer
    if rule == "sgd":
        optimizer = geoopt.optim.RiemannianSGD(groups, lr=SGD_LR, momentum=MOMENTUM)
    else:
        optimizer = geoopt.optim.RiemannianAdam(groups, lr=ADAM_LR)
    return optimizer


def _tall(item: Item, tensor: Tensor) -> Tensor:
    if item.kind != "stiefel":
        return tensor
    matrix = tensor.flatten(1) if tensor.ndim == 4 else tensor
    return matrix.mT.contiguous() if matrix.shape[-2] < matrix.shape[-1] else matrix


def _lr(item: Item, surface: Surface, rule: Rule) -> float:
    """Equal step lengths.

    geoopt's Adam divides by the norm of the gradient in the metric. Its canonical retraction moves
    by twice the part of the canonical gradient that lies in the columns' span.
    """
    if item.kind == "plain":
        return ADAM_LR
    canonical = surface == "CanonicalStiefel"
    if rule == "adam":
        return ADAM_LR * point_norm(item) / (gradient_size(item, 4) if canonical else 1)
    return SGD_LR * (gradient_size(item, 1) / gradient_size(item, 4) if canonical else 1)


def _stiefel(workload: Workload) -> bool:
    return workload.is_stiefel


def _stiefel_or_mixed(workload: Workload) -> bool:
    return "stiefel" in workload.kinds and workload.kinds <= {"stiefel", "plain"}


def _method(surface: Surface, rule: Rule, title: str) -> Method:
    word = {"EuclideanStiefel": "euclidean", "CanonicalStiefel": "canonical", "Sphere": "sphere"}
    optimizer = "RiemannianSGD, momentum .9" if rule == "sgd" else "RiemannianAdam"
    applies = _stiefel if rule == "sgd" else _stiefel_or_mixed
    return Method(
        f"geoopt-{word[surface]}-{rule}",
        title,
        "geoopt",
        f"geoopt.{surface} with geoopt's {optimizer}.",
        functools.partial(attach, surface=surface, rule=rule),
        only("sphere") if surface == "Sphere" else applies,
        (f"riemopt-{rule}",),
        heavy=surface == "CanonicalStiefel",
    )


METHODS = (
    _method("EuclideanStiefel", "sgd", "geoopt Euclidean SGD"),
    _method("EuclideanStiefel", "adam", "geoopt Euclidean Adam"),
    _method("CanonicalStiefel", "sgd", "geoopt canonical SGD"),
    _method("CanonicalStiefel", "adam", "geoopt canonical Adam"),
    _method("Sphere", "sgd", "geoopt SGD"),
    _method("Sphere", "adam", "geoopt Adam"),
)
