"""An ArcFace head: unit class vectors, and angles with a margin (Deng et al. 2019).

python examples/arcface.py
"""

import torch
from shared import accuracy, compare, fit, losses, mnist
from torch import nn
from torch.nn.functional import cross_entropy, linear, normalize, one_hot

from riemopt import RiemannianAdam, constrain
from riemopt.manifolds import Sphere

FEATURES, SCALE, MARGIN = 16, 16.0, 0.3
LR = {"riemopt": 0.01, "normalised in forward": 0.01}


class ArcFace(nn.Module):
    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk
        self.classes = nn.Parameter(normalize(torch.randn(10, FEATURES), dim=1))

    def forward(self, x):
        """Cosines of the angles between features and class vectors."""
        return linear(normalize(self.trunk(x), dim=1), self.classes)

    def loss(self, x, y):
        cosine = self(x).clamp(-0.999, 0.999)
        wider = (cosine.acos() + MARGIN).clamp(max=torch.pi).cos()
        return cross_entropy(SCALE * torch.where(one_hot(y, 10).bool(), wider, cosine), y)


class Normalised(ArcFace):
    """The usual head: class vectors of any norm, divided by it in each forward pass."""

    def forward(self, x):
        return linear(normalize(self.trunk(x), dim=1), normalize(self.classes, dim=1))


def train(way, seed, steps):
    torch.manual_seed(seed)
    data, test = mnist(seed)
    trunk = nn.Sequential(nn.Linear(784, 128), nn.SiLU(), nn.Linear(128, FEATURES))
    if way == "riemopt":
        model = constrain(ArcFace(trunk), "classes", Sphere())
    else:
        model = Normalised(trunk)
    optimizer = RiemannianAdam(model.parameters(), lr=LR[way])  # torch's Adam of free weights
    fit(model.loss, data, optimizer, steps, seed)
    norm = model.classes.detach().norm(dim=1).max().item()
    figures = {"test accuracy": accuracy(model, *test), "greatest norm": norm}
    return model, losses(model.loss, data, test) | figures


if __name__ == "__main__":
    compare(train, LR, steps=400)
