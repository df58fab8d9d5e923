"""Attention over the patches of a digit; each head has orthonormal query and key maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt.manifolds import Stiefel
from training_tasks.data import classifier, split_digits
from training_tasks.interface import Training, TrainingTask

WIDTH, HEADS, HEAD, PATCHES = 32, 4, 8, 16


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.places = nn.Parameter(0.5 * torch.randn(PATCHES, WIDTH))
        self.q, self.k = (nn.Parameter(self.start()) for _ in range(2))
        self.sharpness = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.v, self.o = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.classify = nn.Linear(WIDTH, 10)

    @staticmethod
    def start() -> Tensor:
        return torch.stack([nn.init.orthogonal_(torch.empty(WIDTH, HEAD)) for _ in range(HEADS)])

    def forward(self, x: Tensor) -> Tensor:
        patches = (
            functional.pixel_unshuffle(x.view(-1, 1, 8, 8), 2).flatten(2).mT
        )  # (N, PATCHES, 4)
        h = self.embed(patches) + self.places
        a = self.norms[0](h)
        q, k = a[:, None] @ self.q, a[:, None] @ self.k  # (N, HEADS, PATCHES, HEAD)
        v = self.v(a).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(self.sharpness * q, k, v)
        h = h + self.o(mixed.transpose(1, 2).flatten(2)).relu()
        return self.classify(self.norms[1](h).mean(1))


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    net = Net()
    manifolds = {"q": Stiefel(), "k": Stiefel()}
    return Training(net, manifolds, *classifier(net, split_digits(seed), seed))


TASK = TrainingTask("heads", "per-head orthonormal Q, K", "network", 400, build)
