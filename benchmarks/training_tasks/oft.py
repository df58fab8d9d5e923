"""Orthogonal fine-tuning (Qiu et al. 2023): a frozen network behind block-diagonal rotations."""

import torch
from torch import Tensor, nn

from riemopt.manifolds import Stiefel
from training_tasks.data import classifier, split_digits, trained_network, turned
from training_tasks.interface import Training, TrainingTask

BLOCK = 16


class Turned(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        blocks = layer.in_features // BLOCK
        self.blocks = nn.Parameter(torch.eye(BLOCK).repeat(blocks, 1, 1))
        self.gain = nn.Parameter(torch.ones(layer.out_features))
        self.shift = nn.Parameter(torch.zeros(layer.out_features))

    def forward(self, x: Tensor) -> Tensor:
        turned_x = (x.unflatten(-1, (-1, 1, BLOCK)) @ self.blocks).flatten(-3)
        return self.gain * self.layer(turned_x) + self.shift


def build(seed: int) -> Training:
    frozen = trained_network()
    torch.manual_seed(seed)
    net = nn.Sequential(*[Turned(f) if isinstance(f, nn.Linear) else f for f in frozen])
    manifolds = {n: Stiefel() for n, _ in net.named_parameters() if n.endswith(".blocks")}
    return Training(net, manifolds, *classifier(net, turned(split_digits(seed)), seed))


TASK = TrainingTask("oft", "OFT blocks", "network", 400, build)
