"""Attention over the patches of a digit; each head has orthonormal query and key maps."""

import torch
from riemopt_bench.problems._attention import OrthogonalHeads
from riemopt_bench.problems._digits import learn_from, split_digits
from riemopt_bench.surfaces import Stiefel
from torch import Tensor, nn
from torch.nn import functional

from training_tasks.interface import Training, TrainingTask
from training_tasks.networks import training

WIDTH, HEADS, PATCHES = 32, 4, 16


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, WIDTH)
        self.places = nn.Parameter(0.5 * torch.randn(PATCHES, WIDTH))
        self.attend = OrthogonalHeads(WIDTH, HEADS)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.classify = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = (
            functional.pixel_unshuffle(x.view(-1, 1, 8, 8), 2).flatten(2).mT
        )  # (N, PATCHES, 4)
        h = self.embed(patches) + self.places
        h = h + self.attend(self.norms[0](h)).relu()
        return self.classify(self.norms[1](h).mean(1))


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    net = Net()
    surfaces = {"attend.q": Stiefel(), "attend.k": Stiefel()}
    return training(learn_from(split_digits(seed, validation=0), seed, net, surfaces))


TASK = TrainingTask("heads", "per-head orthonormal Q, K", "network", 400, build)
