"""What a training task is, and the loop that every method runs.

A task knows nothing of methods: its weights are plain parameters that start on their surfaces, with
a table of which surface. All randomness (data, start, batches) comes from the seed, so methods that
are given one seed see the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from riemopt.manifolds import Manifold


class Figures(NamedTuple):
    """What a run ends with."""

    loss: float
    """Training loss on all training data, or the gap of an invariant problem, (f - f*)/|f*|."""
    test: float | None = None
    """Loss on held-out data, where there is any."""


@dataclass
class Training:
    """One start of a task."""

    model: nn.Module
    manifolds: dict[str, Manifold]
    """Manifold of each constrained weight, by its name in `model.named_parameters()`."""
    loss: Callable[[int], Tensor]
    """Training loss of a step, counted from 0."""
    evaluate: Callable[[], Figures]

    def __post_init__(self) -> None:
        parameters = dict(self.model.named_parameters())
        for name, manifold in self.manifolds.items():
            off = manifold.violation(parameters[name].detach()).max().item()
            assert off < 1e-5, f"{name} starts {off:.1e} off {manifold}"

    def constrained(self) -> list[tuple[nn.Parameter, Manifold]]:
        """The constrained weights with their manifolds."""
        parameters = dict(self.model.named_parameters())
        return [(parameters[name], manifold) for name, manifold in self.manifolds.items()]

    def groups(self) -> list[dict[str, object]]:
        """Parameter groups for an optimizer of riemopt."""
        groups: list[dict[str, object]] = [
            {"params": [p], "manifold": manifold} for p, manifold in self.constrained()
        ]
        free = [p for n, p in self.model.named_parameters() if n not in self.manifolds]
        free = [p for p in free if p.requires_grad]
        return [*groups, {"params": free}] if free else groups


@dataclass(frozen=True)
class TrainingTask:
    """A task, ready to be started from any seed."""

    name: str
    title: str
    kind: Literal["network", "invariant"]
    steps: int
    build: Callable[[int], Training]
    lr: float = 1e-2
    """About where Adam's best learning rate is: the middle of a first grid."""


def train(
    training: Training, optimizer: torch.optim.Optimizer, steps: int, *, schedule: bool = True
) -> Figures | None:
    """Train with a cosine schedule down to zero; None if a loss is not finite."""
    scheduler = CosineAnnealingLR(optimizer, T_max=steps) if schedule else None
    for step in range(steps):
        optimizer.zero_grad()
        loss = training.loss(step)
        if not math.isfinite(loss.item()):
            return None
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    with torch.no_grad():
        figures = training.evaluate()
    return figures if math.isfinite(figures.loss) else None
