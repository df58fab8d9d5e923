"""A network whose output is a rotation: the one nearest to nine numbers (Levinson et al. 2020).

python examples/rotation_layer.py
"""

import torch
from shared import compare, digits, fit, losses
from torch import nn
from torch.nn.functional import normalize

from riemopt.manifolds import SpecialOrthogonal

SO3 = SpecialOrthogonal()


def by_factors(A):  # derivatives of U and V divide by differences of singular values
    U, _, Vh = torch.linalg.svd(A)
    signs = torch.linalg.det(U @ Vh).detach()[..., None, None] ** torch.tensor([0, 0, 1])
    return U * signs @ Vh


def gram_schmidt(A):  # of two columns; the third is their cross product (Zhou et al. 2019)
    x = normalize(A[..., 0], dim=-1)
    y = normalize(A[..., 1] - (x * A[..., 1]).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


WAYS = {"riemopt": SO3.project, "SVD by hand": by_factors, "six numbers": gram_schmidt}


class Pose(nn.Sequential):
    def __init__(self, rotation):
        super().__init__(nn.Linear(192, 128), nn.SiLU(), nn.Linear(128, 9))
        self.rotation = rotation

    def forward(self, x):
        return self.rotation(super().forward(x).unflatten(-1, (3, 3)))

    def loss(self, x, R):
        return (self(x) - R).square().sum((-2, -1)).mean()


def turned(images):  # as clouds of 64 points, brightness being height, each by another R
    places = torch.cartesian_prod(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8))
    clouds = torch.cat([places.expand(len(images), 64, 2), images.unsqueeze(-1)], -1)
    R = SO3.random_point(len(images), 3, 3)
    return (clouds @ R.mT).flatten(1), R


def train(way, seed, steps):
    torch.manual_seed(seed)
    (x, R), test = (turned(images.repeat(4, 1)) for images, _ in digits(seed))
    model = Pose(WAYS[way])
    fit(model.loss, (x, R), torch.optim.Adam(model.parameters(), lr=3e-3), steps, seed)
    angles = SO3.dist(model(test[0]).detach(), test[1]).rad2deg() / 2**0.5
    return model, losses(model.loss, (x, R), test) | {"median angle in °": angles.median().item()}


if __name__ == "__main__":
    compare(train, WAYS, steps=400)
