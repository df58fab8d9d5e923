"""A network that lowers its energy to say which digit it sees; its coupling is symmetric.

    E(s; x) = Σ_i ∫ρ⁻¹ - ½ ρᵀ W ρ - ρᵀ (U x + b),   ρ = tanh(s),   W symmetric
    s ← s + ½ (-s + W ρ + U x + b),   some steps from s = 0

The bracket is -∂E/∂ρ where W = Wᵀ, so that small enough steps never raise the energy (Hopfield
1984) and the network comes to rest. The last ten units say the digit, as in equilibrium
propagation (Scellier & Bengio 2017); here the gradient comes from backpropagation through the
steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._digits import VALIDATION, learn_from, split_digits
from riemopt_bench.problems._learning import Learning, accuracy
from riemopt_bench.surfaces import Symmetric

UNITS, STEPS, CLASSES = 64, 10, 10


class Net(nn.Module):
    """All units see the image and each other."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(64, UNITS)
        noise = torch.randn(UNITS, UNITS) / math.sqrt(2 * UNITS)
        self.coupling = nn.Parameter(Symmetric().nearest(noise))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, 10)` of images `(N, 64)`: the last units after the last step."""
        field = self.input(2 * x - 1)
        s = 0.5 * field
        for _ in range(STEPS - 1):
            s = 0.5 * s + 0.5 * torch.addmm(field, s.tanh(), self.coupling)
        return s[:, -CLASSES:]


def learn(seed: int, validation: int = VALIDATION) -> Learning:
    """Model and data, all from `seed`."""
    torch.manual_seed(seed)
    parts = split_digits(seed, validation)
    return learn_from(parts, seed, Net(), {"coupling": Symmetric()})


def build(seed: int) -> Task:
    """Judged by accuracy."""
    return learn(seed).task(accuracy)


PROBLEMS = (
    Problem(
        name="energy",
        title="Energy network",
        description="8×8 digits; 64 units with a symmetric 64×64 coupling come to rest.",
        metric="test accuracy",
        higher_is_better=True,
        target=0.965,
        surfaces=frozenset({Symmetric()}),
        build=build,
        reference="Adam with a coupling that need not be symmetric, and so without an energy, "
        "tuned in the same way; the network is that of Hopfield (1984).",
        budget=Budget(400),
    ),
)
