"""Orthogonal fine-tuning: a frozen network behind block-diagonal rotations (OFT; Qiu et al. 2023).

python examples/oft_blocks.py
"""

import torch
from shared import classified, compare, digits, error, fit
from torch import nn
from torch.nn.utils.parametrizations import orthogonal
from torch.nn.utils.parametrize import register_parametrization

from riemopt import RiemannianAdam, constrain
from riemopt.manifolds import SpecialOrthogonal

BLOCK = 16
LR = {"riemopt": 0.03, "Cayley map": 0.03, "Cayley map, 5 terms": 0.03}


class FiveTerms(nn.Module):
    def forward(self, A):  # (I + Q)(I - Q)⁻¹ as PEFT has it, for speed
        Q, two = A.triu(1) - A.triu(1).mT, 2 * torch.eye(BLOCK)
        return two / 2 + Q @ (two + Q @ (two + Q @ (two + Q)))


class Turned(nn.Module):
    def __init__(self, layer, way):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.blocks = nn.Parameter(torch.eye(BLOCK).repeat(layer.in_features // BLOCK, 1, 1))
        if way == "riemopt":
            constrain(self, "blocks", SpecialOrthogonal())
        elif way == "Cayley map":
            orthogonal(self, "blocks", orthogonal_map="cayley")
        else:
            register_parametrization(self, "blocks", FiveTerms())

    def forward(self, x):
        turned = x.unflatten(-1, (-1, 1, BLOCK)) @ self.blocks
        return self.layer(turned.flatten(-3))


def train(way, seed, steps):
    torch.manual_seed(seed)
    (x, y), (test_x, test_y) = digits(seed)
    layers = [nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10)]
    for adapting in (False, True):
        if adapting:  # to digits that are turned by a quarter, black on white
            x, test_x = ((1 - a).view(-1, 8, 8).rot90(1, (1, 2)).flatten(1) for a in (x, test_x))
            layers = [Turned(f, way) if isinstance(f, nn.Linear) else f for f in layers]
        model = nn.Sequential(*layers)
        optimizer = RiemannianAdam(model.parameters(), lr=LR[way] if adapting else 3e-3)
        fit(error(model), (x, y), optimizer, steps if adapting else 300, seed)
    R = torch.cat([layer.blocks.detach() for layer in model[::2]])
    off = {"max |RᵀR - I|": (R.mT @ R - torch.eye(BLOCK)).abs().max().item()}
    return model, classified(model, (x, y), (test_x, test_y)) | off


if __name__ == "__main__":
    compare(train, LR, steps=400)
