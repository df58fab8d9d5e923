"""A sparse autoencoder whose dictionary has directions of norm 1 (Bricken et al. 2023).

python examples/sparse_autoencoder.py
"""

import torch
from shared import compare, fit, mnist, normalise_after_steps
from torch import nn
from torch.nn.functional import normalize

from riemopt import RiemannianAdam, constrain
from riemopt.manifolds import Sphere

CODES, PENALTY = 256, 0.3
LR = {"riemopt": 0.003, "projected, normalised": 0.003, "no constraint": 0.003}


class Autoencoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.decode, self.encode = nn.Linear(CODES, width), nn.Linear(width, CODES)
        self.decode.weight.data = normalize(torch.randn(width, CODES), dim=0)  # a column a code
        self.encode.weight.data = self.decode.weight.data.mT.clone()

    def codes(self, x):
        return self.encode(x - self.decode.bias).relu()

    def error(self, x):
        return (x - self.decode(self.codes(x))).square().sum(-1).mean()

    def loss(self, x, _):
        return self.error(x) + PENALTY * self.codes(x).sum(-1).mean()


def train(way, seed, steps):
    torch.manual_seed(seed)
    data, (x, y) = mnist(seed)
    model = Autoencoder(x.shape[1])
    weight, optimizer = model.decode.weight, RiemannianAdam(model.parameters(), lr=LR[way])
    if way == "riemopt":
        constrain(model.decode, "weight", Sphere(dim=0))
    elif way == "projected, normalised":
        weight.register_hook(lambda g: g - weight.detach() * (weight.detach() * g).sum(0))
        normalise_after_steps(optimizer, weight, dim=0)
    fit(model.loss, data, optimizer, steps, seed)
    with torch.no_grad():
        unexplained = model.error(x) / (x - x.mean(0)).square().sum(-1).mean()
        active = (model.codes(x) > 0).float().sum(-1).mean()
        greatest = weight.norm(dim=0).max()
        figures = {"test loss": model.loss(x, y), "unexplained": unexplained}
    figures |= {"active codes": active, "greatest norm": greatest}
    return model, {name: figure.item() for name, figure in figures.items()}


if __name__ == "__main__":
    compare(train, LR, steps=400)
