"""Orthogonal fine-tuning (Qiu et al. 2023): a frozen network behind block-diagonal rotations.

The network has learned digits; it is adapted to the same ones turned by a quarter, with black and
white exchanged. (It has seen some of those that are tested on, upright.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._digits import VALIDATION, adapted, learn_from, split_digits, turned
from riemopt_bench.problems._learning import Learning, accuracy
from riemopt_bench.surfaces import Rotation

BLOCK = 16


class Turned(nn.Module):
    """A frozen layer W whose inputs are turned block by block; a gain and a shift per output."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        blocks = layer.in_features // BLOCK
        self.blocks = nn.Parameter(torch.eye(BLOCK).repeat(blocks, 1, 1))
        self.gain = nn.Parameter(torch.ones(layer.out_features))
        self.shift = nn.Parameter(torch.zeros(layer.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `(N, out)` of inputs `(N, in)`."""
        turned_x = (x.unflatten(-1, (-1, 1, BLOCK)) @ self.blocks).flatten(-3)
        return self.gain * self.layer(turned_x) + self.shift


def learn(seed: int, validation: int = VALIDATION) -> Learning:
    """Model and data; `seed` draws parts and batches, and the start is the frozen network."""
    parts = turned(split_digits(seed, validation))
    net = adapted(Turned)
    names = [name for name, _ in net.named_parameters() if name.endswith(".blocks")]
    return learn_from(parts, seed, net, dict.fromkeys(names, Rotation()))


def build(seed: int) -> Task:
    """Judged by accuracy."""
    return learn(seed).task(accuracy)


PROBLEMS = (
    Problem(
        name="oft",
        title="OFT blocks",
        description="A frozen digits network, adapted to turned digits by rotations of 16×16.",
        metric="test accuracy",
        higher_is_better=True,
        target=0.94,
        surfaces=frozenset({Rotation()}),
        build=build,
        reference="Adam with blocks that need not be rotations, tuned in the same way; the adapter "
        "is that of Qiu et al. (2023).",
        budget=Budget(160),
    ),
)
