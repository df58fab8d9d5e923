"""POGO (Javaloy & Vergari, arXiv 2602.14656) as shipped in `pogo-torch`.

It wants `(batch, p, n)` with p ≤ n; tall matrices with `rows=False`, and single ones with a batch
dimension from `flatten_fn`. Parameters that are not constrained are moved by torch's Adam.

Its VectorAdam divides by the norm of the whole gradient, so that a step is as long as the learning
rate however large the weight. Here the rate is multiplied such that entries move by about `lr`, as
with Adam: one grid then suits weights of all sizes, and the parameters beside them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from riemopt_bench.interface import (
    ADAM_GRID,
    Attached,
    Method,
    Stepping,
    Task,
    all_surfaces,
    unknown,
)
from riemopt_bench.libraries._packages import needs
from riemopt_bench.libraries._steps import (
    ADAM_LR,
    MOMENTUM,
    SGD_LR,
    Rule,
    gradient_size,
    point_norm,
)
from riemopt_bench.libraries._together import Together
from riemopt_bench.surfaces import Stiefel, Surface


@functools.singledispatch
def options(surface: Surface, shape: tuple[int, ...] = (1, 1)) -> dict[str, Any]:
    """POGO's options for weights of that shape, `lr` apart."""
    raise unknown("POGO", surface)


@options.register
def _(surface: Stiefel, shape: tuple[int, ...] = (1, 1)) -> dict[str, Any]:
    tall = not surface.kernel and shape[-2] > shape[-1]
    return {"rows": not tall, "flatten_fn": _flatten(surface.kernel, len(shape))}


def _flatten(kernel: bool, ndim: int) -> Callable[[Tensor], Tensor]:
    if kernel:
        return lambda x: x.flatten(1).unsqueeze(0)
    return (lambda x: x.unsqueeze(0)) if ndim == 2 else (lambda x: x)


def attach(task: Task, lr: float, *, rule: Rule) -> Attached:
    """`POGO` with its SGD or its VectorAdam, one group per surface and shape; Adam for the rest."""
    from pogo import POGO, base

    groups: dict[Any, dict[str, Any]] = {}
    for name, parameter in task.model.named_parameters():
        surface, shape = task.surfaces.get(name), tuple(parameter.shape)
        if surface is None:
            continue
        if not isinstance(surface, Stiefel):
            raise ValueError(f"POGO moves orthonormal matrices only; {name} is {surface}")
        new = {"params": [], "lr": lr * _factor(surface, shape, rule), **options(surface, shape)}
        groups.setdefault((surface, shape), new)["params"].append(parameter)
    bases = {"sgd": lambda: base.SGD(momentum=MOMENTUM), "adam": base.VectorAdam}
    pogo: torch.optim.Optimizer = POGO(list(groups.values()), bases[rule](), lr=lr)
    return Attached.to_stored_weights(task, Together.with_adam(task, pogo, lr))


def _factor(surface: Stiefel, shape: tuple[int, ...], rule: Rule) -> float:
    """For equal step lengths: POGO moves by half of the canonical gradient, of norm 1 with Adam."""
    size = point_norm(surface, shape) if rule == "adam" else gradient_size(surface, shape, 1)
    return size / (gradient_size(surface, shape, 2) / 2)


def _method(
    rule: Rule, lr: float, title: str, description: str, grid: tuple[float, ...] = ()
) -> Method:
    return Method(
        f"pogo-{rule}",
        title,
        "pogo",
        description,
        functools.partial(attach, rule=rule),
        needs("pogo", all_surfaces(options)),
        grid,
        stepping=Stepping(lr, lambda workload: workload.is_only(Stiefel), (f"riemopt-{rule}",)),
        packages=("torch", "pogo-torch"),
    )


METHODS = (
    _method("sgd", SGD_LR, "POGO SGD", "POGO with base.SGD(momentum=.9)."),
    _method(
        "adam",
        ADAM_LR,
        "POGO VectorAdam",
        "POGO with base.VectorAdam(); torch's Adam for what is not constrained.",
        ADAM_GRID,
    ),
)
