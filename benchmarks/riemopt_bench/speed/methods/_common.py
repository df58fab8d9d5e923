"""Learning rates that make steps equally long, and the parts that methods share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from riemopt_bench.speed.interface import Attached, Item, Kind, Start, Workload

# The root mean square of the entries of a step is 1e-3 with Adam. With gradients N(0, 1) and
# momentum .9, whose buffer grows to ten gradients, SGD gets there with a tenth of that.
ADAM_LR, SGD_LR, MOMENTUM = 1e-3, 1e-4, 0.9

Rule = Literal["sgd", "adam"]


def point_norm(item: Item) -> float:
    """√(entries of one point): those who divide by a norm, not by a mean square, need it in lr."""
    n, p = item.matrix
    return math.sqrt(p if item.kind == "sphere" else n * p)


def gradient_size(item: Item, inner: float) -> float:
    """Size of an entry of (I - XXᵀ)G + inner·X skew(XᵀG) for G ~ N(0, 1): √(1 - r + inner²·r/2).

    r = p/n. The Euclidean gradient has inner = 1 and the canonical one 2.
    """
    n, p = item.matrix
    return math.sqrt(1 - p / n + inner**2 * p / (2 * n))


def only(*kinds: Kind) -> Callable[[Workload], bool]:
    """Whether nothing but these surfaces occurs."""
    return lambda workload: workload.kinds <= set(kinds)


def with_gradients(starts: Sequence[Start], params: Sequence[nn.Parameter]) -> None:
    """Give every parameter its own copy of the fixed gradient."""
    for start, param in zip(starts, params, strict=True):
        param.grad = start.gradient.reshape(param.shape).clone()


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every tensor in an optimizer's state."""
    return [leaf for leaf in tree_leaves(dict(optimizer.state)) if isinstance(leaf, Tensor)]


def stepped(
    starts: Sequence[Start],
    params: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    call: Callable[[], object] | None = None,
    eager: bool = True,
) -> Attached:
    """An optimizer whose `step` is what is timed."""
    return Attached(
        call or optimizer.step,
        moved=params,
        gradients=[param.grad for param in params if param.grad is not None],
        weights=lambda: [(s.item.kind, p) for s, p in zip(starts, params, strict=True)],
        held=lambda: [*params, *state_tensors(optimizer)],
        eager=eager,
    )


def unconstrained(attached: Attached) -> Attached:
    """Of a method that leaves the surface: nothing of it is judged by the surface's equations."""
    attached.weights = lambda: [("plain", tensor) for tensor in attached.moved]
    return attached
