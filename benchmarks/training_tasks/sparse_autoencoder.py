"""A sparse autoencoder of a network's activations; the decoder's columns have norm 1.

As in Bricken et al. (2023): without the constraint the penalty on the codes is escaped by small
codes and a large decoder.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt.manifolds import Sphere
from training_tasks.data import batches, split_digits, trained_network
from training_tasks.interface import Figures, Training, TrainingTask

CODES, PENALTY = 256, 0.02


class Autoencoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.decoder = nn.Parameter(functional.normalize(torch.randn(width, CODES), dim=0))
        self.encoder = nn.Parameter(self.decoder.detach().mT.clone())
        self.code_bias = nn.Parameter(torch.zeros(CODES))
        self.bias = nn.Parameter(torch.zeros(width))

    def loss(self, x: Tensor) -> Tensor:
        codes = functional.linear(x - self.bias, self.encoder, self.code_bias).relu()
        rebuilt = functional.linear(codes, self.decoder, self.bias)
        return (x - rebuilt).square().sum(-1).mean() + PENALTY * codes.sum(-1).mean()


def build(seed: int) -> Training:
    data = split_digits(seed)
    first_layers = trained_network()[:4]
    with torch.no_grad():
        x, test = first_layers(data.x), first_layers(data.test_x)
    mean, scale = x.mean(0), x.std() * x.shape[1] ** 0.5
    x, test = (x - mean) / scale, (test - mean) / scale
    torch.manual_seed(seed)
    net = Autoencoder(x.shape[1])
    draw = batches(seed, len(x))
    return Training(
        net,
        {"decoder": Sphere(dim=0)},
        lambda step: net.loss(x[draw(step)]),
        lambda: Figures(net.loss(x).item(), net.loss(test).item()),
    )


TASK = TrainingTask("sparse_autoencoder", "sparse autoencoder", "network", 500, build)
