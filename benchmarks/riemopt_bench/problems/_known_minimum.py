"""One weight on a surface, a cost in float64, and its minimum: what such problems have in common.

    data = matrix(200)
    build = functools.partial(one_weight, Sphere(), (200,), cost, data, optimum)

The metric is (f - f*)/max(1, |f*|), taken at the point of the surface nearest to the weight, so
that a weight beside the surface is not rewarded for a cost that no point of the surface has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from riemopt_bench.interface import Evaluation, Task
from riemopt_bench.surfaces import Surface

GAP = "(f - f*) / max(1, |f*|)"
"""The metric, as the page names it."""

Cost = Callable[[Tensor, Any], Tensor]


class Point(nn.Module):
    """A weight of any shape, and what it costs."""

    def __init__(self, start: Tensor, cost: Cost) -> None:
        super().__init__()
        self.weight = nn.Parameter(start)
        self.cost = cost

    def forward(self, data: Any) -> Tensor:
        """f(weight), a scalar."""
        return self.cost(self.weight, data)


def one_weight(surface: Surface, start: Tensor, cost: Cost, data: Any, optimum: float) -> Task:
    """The task of minimising `cost(weight, data)` over the surface; the data never change."""

    def evaluate(model: nn.Module) -> Evaluation:
        gap = relative_gap(surface, model.weight, lambda x: cost(x, data), optimum)
        return Evaluation(metric=gap, selection=gap)

    return Task(
        Point(start, cost),
        {"weight": surface},
        batch=lambda step: data,
        loss=lambda model, batch: model(batch),
        evaluate=evaluate,
    )


def relative_gap(
    surface: Surface, weight: Tensor, cost: Callable[[Tensor], Tensor], optimum: float
) -> float:
    """(f - f*)/max(1, |f*|) at the point nearest to the weight, in float64 on the CPU."""
    nearest = surface.nearest(weight.detach().cpu().double())
    return (cost(nearest).item() - optimum) / max(1.0, abs(optimum))


def normal(seed: int, *shape: int) -> Tensor:
    """A standard normal tensor that follows from its seed, in float64."""
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(seed: int, n: int) -> Tensor:
    """½(G + Gᵀ) of a standard normal G."""
    G = normal(seed, n, n)
    return (G + G.mT) / 2
