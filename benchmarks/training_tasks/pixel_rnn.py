"""Digits read two pixels at a time by an orthogonal recurrent network."""

import torch
from torch import Tensor, nn

from riemopt.manifolds import Stiefel
from training_tasks.copying_rnn import OrthogonalRNN
from training_tasks.data import classifier, split_digits
from training_tasks.interface import Training, TrainingTask

PIXELS = 2


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = OrthogonalRNN(PIXELS, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn.output(self.rnn(x.view(len(x), -1, PIXELS).transpose(0, 1))[-1])


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    net = Reader()
    manifolds = {"rnn.recurrent": Stiefel()}
    return Training(net, manifolds, *classifier(net, split_digits(seed), seed))


TASK = TrainingTask("pixel_rnn", "orthogonal RNN, pixels", "network", 300, build)
