"""An ArcFace head (Deng et al. 2019): unit class vectors, angles with a margin."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt.manifolds import Sphere
from training_tasks.data import batches, split_digits
from training_tasks.interface import Figures, Training, TrainingTask

FEATURES, SCALE, MARGIN = 16, 16.0, 0.4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, FEATURES))
        self.classes = nn.Parameter(functional.normalize(torch.randn(10, FEATURES), dim=-1))

    def cosines(self, x: Tensor) -> Tensor:
        return functional.linear(functional.normalize(self.trunk(4 * x - 2), dim=-1), self.classes)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        cosine = self.cosines(x).clamp(-0.999, 0.999)
        wider = (cosine.arccos() + MARGIN).clamp(max=torch.pi).cos()
        own = functional.one_hot(y, 10).bool()
        return functional.cross_entropy(SCALE * torch.where(own, wider, cosine), y)


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    data, net = split_digits(seed), Net()
    draw = batches(seed, len(data.x))

    def loss(step: int) -> Tensor:
        chosen = draw(step)
        return net.loss(data.x[chosen], data.y[chosen])

    return Training(
        net,
        {"classes": Sphere()},
        loss,
        lambda: Figures(net.loss(data.x, data.y).item(), net.loss(data.test_x, data.test_y).item()),
    )


TASK = TrainingTask("arcface", "ArcFace head", "network", 600, build)
