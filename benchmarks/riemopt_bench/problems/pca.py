"""The ten leading principal directions of scikit-learn's digits: a problem with a known answer.

    minimise  f(X) = -½ tr(XᵀCX)  over 64×10 matrices with XᵀX = I

where C is the digits' covariance divided by its largest eigenvalue. The minimum is minus half the
sum of the ten largest eigenvalues; the page reports (f(X) - f*) / |f*|.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from riemopt_bench.interface import Budget, Evaluation, Problem, Task
from riemopt_bench.problems._known_minimum import Point, relative_gap
from riemopt_bench.surfaces import Stiefel

DIRECTIONS = 10


@functools.cache
def covariance() -> tuple[Tensor, float]:
    """C in float64, and the minimum."""
    from sklearn.datasets import load_digits

    C = torch.tensor(load_digits().data, dtype=torch.float64).T.cov()
    eigenvalues = torch.linalg.eigvalsh(C)
    best = -0.5 * (eigenvalues[-DIRECTIONS:] / eigenvalues[-1]).sum().item()
    return C / eigenvalues[-1], best


def cost(X: Tensor, C: Tensor) -> Tensor:
    """-½ tr(XᵀCX)."""
    return -0.5 * (X * (C @ X)).sum()


def build(seed: int) -> Task:
    """The data are fixed; the seed draws the starting point."""
    C, best = covariance()
    C32, surface = C.float(), Stiefel()
    gen = torch.Generator().manual_seed(seed)
    start = surface.start(torch.randn(len(C), DIRECTIONS, generator=gen))

    def evaluate(model: nn.Module) -> Evaluation:
        gap = relative_gap(surface, model, lambda X: cost(X, C), best)
        return Evaluation(metric=gap, selection=gap)

    return Task(
        Point(start, cost),
        {"weight": surface},
        batch=lambda step: C32,
        loss=lambda model, batch: model(batch),
        evaluate=evaluate,
    )


PROBLEMS = (
    Problem(
        name="pca",
        title="PCA of the digits",
        description="Ten leading directions of the digits (64×10, orthonormal columns).",
        metric="relative gap to the optimum",
        higher_is_better=False,
        target=1e-6,
        surfaces=frozenset({Stiefel()}),
        build=build,
        reference="The optimum is the sum of the ten largest eigenvalues.",
        full_batch=True,
        bounded=False,
        log_metric=True,
        resolution=1e-12,  # the errors of a float32 weight count by their squares
        budget=Budget(400),
    ),
)
