"""Principal directions of a stream of samples, each seen once: the setting of Oja (1982).

    minimise  f(X) = -E tr XᵀxxᵀX  over n×p matrices with XᵀX = I

Every step brings new samples of a normal distribution, whose covariance Σ is known to the judge
alone. The minimum is minus the sum of the p largest eigenvalues of Σ; the page reports
(f(X) - f*)/|f*|.
"""

from __future__ import annotations

import functools

import torch
from torch import Generator, Tensor, nn

from riemopt_bench.interface import Budget, Evaluation, Problem, Task
from riemopt_bench.problems._known_minimum import Point, relative_gap
from riemopt_bench.surfaces import Stiefel

SIZE, DIRECTIONS, SAMPLES = 64, 5, 32


@functools.cache
def deviations() -> Tensor:
    """Standard deviations along the eigenvectors: of the leading ones, then of the noise."""
    leading = torch.linspace(2, 1.5, DIRECTIONS)
    return torch.cat([leading, torch.linspace(1, 0.1, SIZE - DIRECTIONS)])


def cost(X: Tensor, samples: Tensor) -> Tensor:
    """-tr XᵀSX, of the samples' second moments S."""
    return -(samples @ X).square().sum() / len(samples)


def build(seed: int) -> Task:
    """The seed draws the eigenvectors, the start and the stream."""
    gen = Generator().manual_seed(seed)
    surface = Stiefel()
    basis = surface.start(torch.randn(SIZE, SIZE, generator=gen))
    start = surface.start(torch.randn(SIZE, DIRECTIONS, generator=gen))
    directions = basis * deviations()  # Σ = directions·directionsᵀ
    optimum = -deviations()[:DIRECTIONS].double().square().sum().item()
    root = basis.double() * deviations().double()

    def batch(step: int) -> Tensor:
        noise = Generator().manual_seed(seed * 1_000_003 + step)
        return torch.randn(SAMPLES, SIZE, generator=noise) @ directions.mT

    def evaluate(model: nn.Module) -> Evaluation:
        gap = relative_gap(surface, model, lambda X: -(root.mT @ X).square().sum(), optimum)
        return Evaluation(metric=gap, selection=gap)

    return Task(
        Point(start, cost),
        {"weight": surface},
        batch=batch,
        loss=lambda model, batch: model(batch),
        evaluate=evaluate,
    )


PROBLEMS = (
    Problem(
        name="online-pca",
        title="Online PCA",
        description=f"{DIRECTIONS} leading directions in {SIZE} dimensions, from {SAMPLES} new "
        "samples a step.",
        metric="relative gap to the optimum",
        higher_is_better=False,
        target=3e-3,
        surfaces=frozenset({Stiefel()}),
        build=build,
        reference="The optimum is the sum of the leading eigenvalues of the true covariance.",
        bounded=False,
        log_metric=True,
        resolution=1e-12,
        budget=Budget(600),
    ),
)
