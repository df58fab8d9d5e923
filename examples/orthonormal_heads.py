"""Attention in which the query and key maps of each head have orthonormal rows.

python examples/orthonormal_heads.py
"""

import torch
from shared import classified, compare, digits, error, fit
from torch import nn
from torch.nn.functional import pixel_unshuffle, scaled_dot_product_attention
from torch.nn.utils.parametrizations import orthogonal

from riemopt import RiemannianAdam, constrain
from riemopt.manifolds import Stiefel

WIDTH, HEADS, HEAD = 32, 4, 8
LR = {"riemopt": 0.03, "parametrized": 0.03, "no constraint": 0.03}


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(Stiefel().random_point(HEADS, HEAD, WIDTH))

    def forward(self, x):  # (N, T, WIDTH) to (N, HEADS, T, HEAD)
        return x.unsqueeze(1) @ self.weight.mT


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.places = nn.Linear(4, WIDTH), nn.Parameter(0.5 * torch.randn(16, WIDTH))
        self.q, self.k, self.v = Heads(), Heads(), Heads()
        self.sharpness = nn.Parameter(torch.ones(HEADS, 1, 1))  # the gain of q and k
        self.mix, self.classify = nn.Linear(HEADS * HEAD, WIDTH), nn.Linear(WIDTH, 10)
        self.before, self.after = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x):
        patches = pixel_unshuffle(x.view(-1, 1, 8, 8), 2).flatten(2).mT  # sixteen of 2×2 pixels
        h = self.embed(patches) + self.places
        a = self.before(h)
        a = scaled_dot_product_attention(self.sharpness * self.q(a), self.k(a), self.v(a))
        h = h + self.mix(a.transpose(1, 2).flatten(2)).relu()
        return self.classify(self.after(h).mean(1))


def train(way, seed, steps):
    torch.manual_seed(seed)
    model, (data, test) = Classifier(), digits(seed)
    for heads in (model.q, model.k):
        if way == "riemopt":
            constrain(heads, "weight", Stiefel())  # each head's matrix is wide: orthonormal rows
        elif way == "parametrized":
            orthogonal(heads)
    optimizer = RiemannianAdam(model.parameters(), lr=LR[way])  # torch's Adam of free weights
    fit(error(model), data, optimizer, steps, seed)
    return model, classified(model, data, test)


if __name__ == "__main__":
    compare(train, LR, steps=300)
