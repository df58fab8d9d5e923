"""The ten leading principal directions of scikit-learn's digits: a problem with a known answer.

    minimise  f(X) = -½ tr(XᵀCX)  over 64×10 matrices with XᵀX = I

where C is the digits' covariance divided by its largest eigenvalue. The minimum is minus half the
sum of the ten largest eigenvalues; the page reports (f(X) - f*) / |f*|.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from riemopt_bench.interface import Evaluation, Problem, Task
from riemopt_bench.surfaces import Stiefel

DIRECTIONS = 10


class Basis(nn.Module):
    """An n×p matrix with orthonormal columns."""

    def __init__(self, n: int, p: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(n, p)))

    def forward(self, covariance: Tensor) -> Tensor:
        """-½ tr(XᵀCX)."""
        X = self.weight
        return -0.5 * (X * (covariance @ X)).sum()


def build(seed: int) -> Task:
    """The data are fixed; the seed draws the starting point."""
    from sklearn.datasets import load_digits

    torch.manual_seed(seed)
    covariance = torch.tensor(load_digits().data, dtype=torch.float64).T.cov()
    eigenvalues = torch.linalg.eigvalsh(covariance)
    covariance = covariance / eigenvalues[-1]
    best = -0.5 * (eigenvalues[-DIRECTIONS:] / eigenvalues[-1]).sum().item()
    model = Basis(len(covariance), DIRECTIONS)
    covariance32 = covariance.float()

    def evaluate(model: nn.Module) -> Evaluation:
        X = model.weight.double()
        value = -0.5 * (X * (covariance @ X)).sum().item()
        gap = (value - best) / abs(best)
        return Evaluation(metric=gap, selection=abs(gap))

    return Task(
        model,
        {"weight": Stiefel()},
        batch=lambda step: covariance32,
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
        target=1e-3,
        surfaces=frozenset({Stiefel()}),
        build=build,
        reference="The optimum is the sum of the ten largest eigenvalues.",
        full_batch=True,
        bounded=False,
        log_metric=True,
        resolution=1e-6,  # f is a sum in float32
    ),
)
