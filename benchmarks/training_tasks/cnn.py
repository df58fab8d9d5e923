"""A small convolutional network on digits; kernels are orthonormal as matrices (out, in·3·3)."""

import torch
from torch import Tensor, nn

from riemopt.manifolds import Flattened, Stiefel
from training_tasks.data import classifier, split_digits
from training_tasks.interface import Training, TrainingTask


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(1, 8, 3, padding=1, bias=False),
                nn.Conv2d(8, 16, 3, padding=1, stride=2, bias=False),
                nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False),
            ]
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, c.out_channels) for c in self.convolutions)
        self.classify = nn.Linear(32 * 4, 10)
        for c in self.convolutions:
            nn.init.orthogonal_(c.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = x.view(-1, 1, 8, 8)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            h = norm(convolution(h)).relu()
        return self.classify(h.flatten(1))


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    net = Net()
    manifolds = {f"convolutions.{i}.weight": Flattened(Stiefel()) for i in range(3)}
    return Training(net, manifolds, *classifier(net, split_digits(seed), seed))


TASK = TrainingTask("cnn", "CNN, flattened Stiefel kernels", "network", 400, build)
