"""torch's own Adam on the same tensors, without any constraint."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from riemopt_bench.speed.interface import Attached, Method, Start
from riemopt_bench.speed.methods._common import ADAM_LR, stepped, unconstrained, with_gradients


def attach(starts: Sequence[Start], **options: Any) -> Attached:
    """`torch.optim.Adam`; what it moves leaves its surface."""
    params = [nn.Parameter(start.point.clone()) for start in starts]
    with_gradients(starts, params)
    return unconstrained(stepped(starts, params, torch.optim.Adam(params, lr=ADAM_LR, **options)))


METHODS = (
    Method(
        "torch-adam",
        "torch Adam",
        "torch",
        "torch.optim.Adam with its defaults on models, no constraint.",
        attach,
        lambda workload: "plain" in workload.kinds,
        ("riemopt-adam",),
    ),
    Method(
        "torch-adam-foreach",
        "torch Adam, foreach",
        "torch",
        "torch.optim.Adam(foreach=True), no constraint.",
        functools.partial(attach, foreach=True),
        lambda workload: True,
        ("riemopt-adam-foreach", "riemopt-adam"),
    ),
    Method(
        "torch-adam-fused",
        "torch Adam, fused",
        "torch",
        "torch.optim.Adam(fused=True), no constraint.",
        functools.partial(attach, fused=True),
        lambda workload: True,
        ("riemopt-adam-fused", "riemopt-adam"),
    ),
)
