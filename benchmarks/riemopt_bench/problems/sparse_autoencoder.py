"""A sparse autoencoder of a network's activations; the decoder's columns have norm 1.

    minimise  E ‖x - D z - b‖² + λ ‖z‖₁   with codes z = relu(E (x - b) + c)

As in Bricken et al. (2023): without the constraint the penalty on the codes is escaped by small
codes and a large decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._digits import (
    VALIDATION,
    Parts,
    learn_from,
    split_digits,
    trained_network,
)
from riemopt_bench.problems._learning import Labelled, Learning
from riemopt_bench.surfaces import Sphere

CODES, PENALTY = 256, 0.02


class Autoencoder(nn.Module):
    """Activations of that width, `CODES` codes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.decoder = nn.Parameter(functional.normalize(torch.randn(width, CODES), dim=0))
        self.encoder = nn.Parameter(self.decoder.detach().mT.clone())
        self.code_bias = nn.Parameter(torch.zeros(CODES))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes `(N, CODES)`, and the activations `(N, width)` rebuilt from them."""
        codes = functional.linear(x - self.bias, self.encoder, self.code_bias).relu()
        return codes, functional.linear(codes, self.decoder, self.bias)


def penalised_error(model: nn.Module, batch: Labelled) -> Tensor:
    """‖x - rebuilt‖² + λ ‖codes‖₁, mean over a batch."""
    x, _ = batch
    codes, rebuilt = model(x)
    return (x - rebuilt).square().sum(-1).mean() + PENALTY * codes.sum(-1).mean()


def activations(parts: Parts) -> Parts:
    """Of the trained network's second hidden layer, with mean 0 and a mean square norm of 1."""
    layers = trained_network()[:4]
    with torch.no_grad():
        images = [layers(x) for x, _ in parts]
    mean, scale = images[0].mean(0), images[0].std() * images[0].shape[1] ** 0.5
    rescaled = [(x - mean) / scale for x in images]
    return Parts(*((x, y) for x, (_, y) in zip(rescaled, parts, strict=True)))


def learn(seed: int, validation: int = VALIDATION) -> Learning:
    """Model and data, all from `seed`, but for the network that is looked at."""
    parts = activations(split_digits(seed, validation))
    torch.manual_seed(seed)
    net = Autoencoder(parts.training[0].shape[1])
    return learn_from(parts, seed, net, {"decoder": Sphere(dim=0)}, penalised_error)


def build(seed: int) -> Task:
    """Judged by the loss."""
    return learn(seed).task()


PROBLEMS = (
    Problem(
        name="sparse-autoencoder",
        title="Sparse autoencoder",
        description="96 activations of a digits network in 256 sparse codes; unit decoder columns.",
        metric="test loss",
        higher_is_better=False,
        target=0.036,
        surfaces=frozenset({Sphere(dim=0)}),
        build=build,
        reference="0.022 by dictionary learning: the same loss, but each code is the best one for "
        "its activations and not what an encoder says. Set up as in Bricken et al. (2023).",
        bounded=False,
        log_metric=True,
        budget=Budget(350),
    ),
)
