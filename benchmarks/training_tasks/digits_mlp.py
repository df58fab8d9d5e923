"""A classifier of digits: a tall and a square layer with orthonormal columns, unit prototypes."""

import torch
from riemopt_bench.problems._digits import learn_from, split_digits
from riemopt_bench.surfaces import Sphere, Stiefel
from torch import Tensor, nn

from training_tasks.interface import Training, TrainingTask
from training_tasks.networks import training

WIDTH = 128


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.prototypes = nn.Linear(WIDTH, 10)
        self.gain = nn.Parameter(torch.tensor(4.0))
        for layer in (self.first, self.second):
            nn.init.orthogonal_(layer.weight)
        nn.init.normal_(self.prototypes.weight)
        self.prototypes.weight.data = nn.functional.normalize(self.prototypes.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.prototypes(self.second(self.first(x).relu()).relu())


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    net = Net()
    surfaces = {
        "first.weight": Stiefel(),
        "second.weight": Stiefel(),
        "prototypes.weight": Sphere(),
    }
    return training(learn_from(split_digits(seed, validation=0), seed, net, surfaces))


TASK = TrainingTask("digits_mlp", "digits MLP", "network", 500, build)
