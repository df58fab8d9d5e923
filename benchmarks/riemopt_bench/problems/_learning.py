"""What a learning problem is made of, and how it becomes a task of the benchmark.

    learning = Learning(model, surfaces, batch, loss, validation=..., test=...)
    task = learning.task(accuracy)

A batch, and each part of the data, is what `loss(model, batch)` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt_bench.interface import Evaluation, Task
from riemopt_bench.surfaces import Surface

Loss = Callable[[nn.Module, Any], Tensor]
Labelled = tuple[Tensor, Tensor]
"""Inputs, and the label of each."""


@dataclass(frozen=True)
class Learning:
    """A model on its surfaces, a loss, and data.

    `training` is all that there is to train on; None where every batch is drawn anew. Without
    `validation` a learning rate can be chosen by other means only.
    """

    model: nn.Module
    surfaces: Mapping[str, Surface]
    batch: Callable[[int], Any]
    loss: Loss
    test: Any
    validation: Any = None
    training: Any = None

    def task(self, metric: Loss | None = None) -> Task:
        """The task that is judged by `metric` on the test data, or by the loss there."""
        judged = self.loss if metric is None else metric

        def evaluate(model: nn.Module) -> Evaluation:
            return Evaluation(
                metric=judged(model, self.test).item(),
                selection=self.loss(model, self.validation).item(),
            )

        return Task(self.model, self.surfaces, self.batch, self.loss, evaluate)


def draws(seed: int, draw: Callable[[torch.Generator], Tensor]) -> Callable[[int], Tensor]:
    """What one generator draws first, second, …; a step may ask again, and in any order."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Tensor] = []

    def at(step: int) -> Tensor:
        while len(drawn) <= step:
            drawn.append(draw(generator))
        return drawn[step]

    return at


def cross_entropy(model: nn.Module, batch: Labelled) -> Tensor:
    """Of the model's logits `(..., classes)`."""
    x, labels = batch
    return functional.cross_entropy(model(x).flatten(0, -2), labels.flatten())


def accuracy(model: nn.Module, batch: Labelled) -> Tensor:
    """The share of labels for which the model has the largest logit."""
    x, labels = batch
    return (model(x).argmax(-1) == labels).double().mean()
