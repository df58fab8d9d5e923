"""Low-rank adapters U S Vᵀ of a frozen network, U and V with orthonormal columns (StelLA, 2025).

The network has learned digits; it is adapted to the same ones turned by a quarter, with black and
white exchanged. (It has seen some of those that are tested on, upright.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._digits import VALIDATION, adapted, learn_from, split_digits, turned
from riemopt_bench.problems._learning import Learning, accuracy
from riemopt_bench.surfaces import Stiefel

RANK = 6


class Adapted(nn.Module):
    """A frozen layer W; its output is (W + U S Vᵀ) x + b."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.u = nn.Parameter(nn.init.orthogonal_(torch.empty(layer.out_features, RANK)))
        self.v = nn.Parameter(nn.init.orthogonal_(torch.empty(layer.in_features, RANK)))
        self.s = nn.Parameter(0.1 * torch.eye(RANK))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `(N, out)` of inputs `(N, in)`."""
        return self.layer(x) + functional.linear(x @ self.v @ self.s, self.u)


def learn(seed: int, validation: int = VALIDATION) -> Learning:
    """Model and data, all from `seed`, but for the frozen network."""
    parts = turned(split_digits(seed, validation))
    torch.manual_seed(seed)
    net = adapted(Adapted)
    names = [name for name, _ in net.named_parameters() if name.endswith((".u", ".v"))]
    return learn_from(parts, seed, net, dict.fromkeys(names, Stiefel()))


def build(seed: int) -> Task:
    """Judged by accuracy."""
    return learn(seed).task(accuracy)


PROBLEMS = (
    Problem(
        name="adapters",
        title="U S Vᵀ adapters",
        description="A frozen network adapted to turned digits in rank 6; U and V orthonormal.",
        metric="test accuracy",
        higher_is_better=True,
        target=0.94,
        surfaces=frozenset({Stiefel()}),
        build=build,
        reference="Adam with U and V free, as in LoRA, tuned in the same way; the adapter is that "
        "of StelLA (Li et al. 2025).",
        budget=Budget(200),
    ),
)
