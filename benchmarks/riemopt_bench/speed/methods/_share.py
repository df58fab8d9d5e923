"""A training step's share: compute the weight, run backward from it, step.

The loss is ⟨W, C⟩ with the fixed C that is the gradient elsewhere, so that those who compute the
weight in every forward and those who store it do the same work otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from riemopt_bench.speed.interface import Attached, Kind, Start


def share(
    starts: Sequence[Start],
    *,
    weights: Callable[[], Sequence[Tensor]],
    moved: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    held: Callable[[], list[Tensor]],
    drifts: bool = False,
) -> Attached:
    """`weights` is the part of the forward pass that is measured."""
    with torch.no_grad():
        shapes = [weight.shape for weight in weights()]
    targets = [
        start.gradient.reshape(shape).clone() for start, shape in zip(starts, shapes, strict=True)
    ]

    def call() -> None:
        terms = [(w * c).sum() for w, c in zip(weights(), targets, strict=True)]
        loss = terms[0] if len(terms) == 1 else torch.stack(terms).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def current() -> list[tuple[Kind, Tensor]]:
        with torch.no_grad():
            return [(s.item.kind, w) for s, w in zip(starts, weights(), strict=True)]

    return Attached(call, moved, targets, current, held, drifts=drifts)
