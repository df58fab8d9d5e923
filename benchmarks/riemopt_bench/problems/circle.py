"""A point on the circle and a vector on the sphere in 1,000 dimensions, under a noisy gradient.

    minimise  E[ -⟨x, a + ε⟩ - ⟨y, b + ε'⟩ ]  over ‖x‖ = ‖y‖ = 1

The answer is x = a, y = b; the noise is as long as the signal. The gradient of x/‖x‖ is at a right
angle to x, so that an unconstrained `original` can only grow: this is where one sees it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from riemopt_bench.interface import Budget, Evaluation, Problem, Task
from riemopt_bench.surfaces import Sphere

DIMENSIONS = {"circle": 2, "sphere": 1000}


class Points(nn.Module):
    """Two unit vectors."""

    def __init__(self, circle: Tensor, sphere: Tensor) -> None:
        super().__init__()
        self.circle = nn.Parameter(circle)
        self.sphere = nn.Parameter(sphere)

    def forward(self, directions: tuple[Tensor, Tensor]) -> Tensor:
        """-⟨x, a⟩ - ⟨y, b⟩."""
        return -self.circle @ directions[0] - self.sphere @ directions[1]


def build(seed: int) -> Task:
    """Uniform starting points and targets; noise of length about one in each space."""
    generator = torch.Generator().manual_seed(seed)

    def unit(n: int) -> Tensor:
        x = torch.randn(n, generator=generator)
        return x / x.norm()

    start = {name: unit(n) for name, n in DIMENSIONS.items()}
    goal = {name: unit(n) for name, n in DIMENSIONS.items()}

    def batch(step: int) -> tuple[Tensor, Tensor]:
        noise = torch.Generator().manual_seed(seed * 1_000_003 + step)
        a, b = (g + torch.randn(len(g), generator=noise) / len(g) ** 0.5 for g in goal.values())
        return a, b

    def evaluate(model: nn.Module) -> Evaluation:
        gap = 0.0
        for name, target in goal.items():
            x = getattr(model, name).detach().double()
            gap += 0.25 * (x / x.norm() - target).square().sum().item()
        return Evaluation(metric=gap, selection=gap)

    return Task(
        Points(**start),
        {name: Sphere() for name in DIMENSIONS},
        batch=batch,
        loss=lambda model, batch: model(batch),
        evaluate=evaluate,
    )


PROBLEMS = (
    Problem(
        name="circle",
        title="Circle and sphere",
        description="A point on the circle, a unit vector in 1,000 dimensions; noisy gradients.",
        metric="mean of 1 - cos(angle to the target)",
        higher_is_better=False,
        target=1e-2,
        surfaces=frozenset({Sphere()}),
        build=build,
        reference="The targets are known, and the gap is 0 at them.",
        bounded=False,
        log_metric=True,
        resolution=1e-12,
        budget=Budget(1000),
    ),
)
