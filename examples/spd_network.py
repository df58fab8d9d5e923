"""A network on covariance matrices: X ↦ WXWᵀ with WWᵀ = I, then log X (Huang & Van Gool 2017).

python examples/spd_network.py
"""

import torch
from shared import classified, compare, error, fit, mnist
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from riemopt import RiemannianAdam, constrain, linalg
from riemopt.manifolds import SPD, Stiefel

KEPT = 12
LR = {"riemopt": 0.03, "householder": 0.03, "matrix_exp": 0.03, "no constraint": 0.03}


class SPDNet(nn.Module):
    """X ↦ linear(log(M^(-½)·WXWᵀ·M^(-½))), with the mean M on SPD."""

    def __init__(self, channels):
        super().__init__()
        self.map = nn.Linear(channels, KEPT, bias=False)
        nn.init.orthogonal_(self.map.weight)
        self.mean = nn.Parameter(torch.eye(KEPT))
        self.classify = nn.Linear(KEPT * KEPT, 10)

    def forward(self, x):
        small = self.map(self.map(x).mT)
        white = linalg.whiten(linalg.cholesky(self.mean).expand_as(small), small)
        return self.classify(linalg.hermitian_function(white, linalg.LOG).flatten(1))


def covariances(images):
    """28×28 matrices: an image is taken for a signal of 28 channels, its rows."""
    signals = images.view(-1, 28, 28)
    signals = signals - signals.mean(-1, keepdim=True)
    return signals @ signals.mT / 28 + 1e-3 * torch.eye(28)


def train(way, seed, steps):
    torch.manual_seed(seed)
    (x, y), (test_x, test_y) = mnist(seed)
    data, test = (covariances(x), y), (covariances(test_x), test_y)
    model = SPDNet(28)
    constrain(model, "mean", SPD())
    if way == "riemopt":
        constrain(model.map, "weight", Stiefel())
    elif way in ("householder", "matrix_exp"):
        orthogonal(model.map, orthogonal_map=way)
    optimizer = RiemannianAdam(model.parameters(), lr=LR[way], weight_decay=1e-4)
    fit(error(model), data, optimizer, steps, seed)
    return model, classified(model, data, test)


if __name__ == "__main__":
    compare(train, LR, steps=300)
