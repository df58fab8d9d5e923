"""Low-rank adapters U S Vᵀ of a frozen network, U and V with orthonormal columns (StelLA, 2025)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt.manifolds import Stiefel
from training_tasks.data import classifier, split_digits, trained_network, turned
from training_tasks.interface import Training, TrainingTask

RANK = 6


class Adapted(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.u = nn.Parameter(nn.init.orthogonal_(torch.empty(layer.out_features, RANK)))
        self.v = nn.Parameter(nn.init.orthogonal_(torch.empty(layer.in_features, RANK)))
        self.s = nn.Parameter(0.1 * torch.eye(RANK))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + functional.linear(x @ self.v @ self.s, self.u)


def build(seed: int) -> Training:
    frozen = trained_network()
    torch.manual_seed(seed)
    net = nn.Sequential(*[Adapted(f) if isinstance(f, nn.Linear) else f for f in frozen])
    manifolds = {n: Stiefel() for n, _ in net.named_parameters() if n.endswith((".u", ".v"))}
    return Training(net, manifolds, *classifier(net, turned(split_digits(seed)), seed))


TASK = TrainingTask("adapters", "U S Vᵀ adapters", "network", 600, build)
