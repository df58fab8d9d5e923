"""POGO (Javaloy & Vergari, arXiv 2602.14656) as shipped in `pogo-torch`.

It wants `(batch, p, n)` with p ≤ n; tall matrices with `rows=False`, and single ones with a batch
dimension from `flatten_fn`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from riemopt_bench.speed.interface import Attached, Item, Method, Start
from riemopt_bench.speed.methods._common import (
    ADAM_LR,
    MOMENTUM,
    SGD_LR,
    Rule,
    gradient_size,
    only,
    point_norm,
    stepped,
    with_gradients,
)


def attach(starts: Sequence[Start], *, rule: Rule) -> Attached:
    """`POGO` with its SGD or its VectorAdam, one group per shape."""
    from pogo import POGO, base

    params = [nn.Parameter(start.point.clone()) for start in starts]
    with_gradients(starts, params)
    groups: dict[Item, dict[str, Any]] = {}
    for start, param in zip(starts, params, strict=True):
        group = groups.setdefault(start.item, {"params": [], **_options(start.item, rule)})
        group["params"].append(param)
    rules = {"sgd": lambda: base.SGD(momentum=MOMENTUM), "adam": base.VectorAdam}
    optimizer: torch.optim.Optimizer = POGO(list(groups.values()), rules[rule](), lr=ADAM_LR)
    return stepped(starts, params, optimizer)


def _options(item: Item, rule: Rule) -> dict[str, Any]:
    """Equal step lengths: it moves along half of the canonical gradient, of norm 1 with Adam."""
    half = gradient_size(item, 2) / 2
    lr = (
        SGD_LR * gradient_size(item, 1) / half
        if rule == "sgd"
        else ADAM_LR * point_norm(item) / half
    )
    tall = len(item.shape) < 4 and item.shape[-2] > item.shape[-1]
    return {"lr": lr, "rows": not tall, "flatten_fn": _flatten(len(item.shape))}


def _flatten(ndim: int) -> Callable[[Tensor], Tensor]:
    if ndim == 2:
        return lambda x: x.unsqueeze(0)
    if ndim == 4:
        return lambda x: x.flatten(1).unsqueeze(0)
    return lambda x: x


def _method(rule: Rule, title: str, description: str) -> Method:
    return Method(
        f"pogo-{rule}",
        title,
        "pogo",
        description,
        functools.partial(attach, rule=rule),
        only("stiefel"),
        (f"riemopt-{rule}",),
    )


METHODS = (
    _method("sgd", "POGO SGD", "POGO with base.SGD(momentum=.9)."),
    _method("adam", "POGO VectorAdam", "POGO with base.VectorAdam()."),
)
