"""Copying memory (Arjovsky, Shah & Bengio 2016) with an orthogonal recurrent network.

Five symbols are shown, then blanks, then a marker; the network has to say the symbols again. As in
the example of geotorch: modReLU, and a start made of random rotations in planes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt.manifolds import Stiefel
from training_tasks.interface import Figures, Training, TrainingTask

HIDDEN, SYMBOLS, RECALL, DELAY, BATCH = 64, 8, 5, 15, 64


def rotations_in_planes(n: int) -> Tensor:
    """Block-diagonal n×n with n/2 rotations by random angles."""
    angles = (torch.rand(n // 2) * 2 - 1) * torch.pi
    cos, sin = angles.cos(), angles.sin()
    blocks = torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)
    return torch.block_diag(*blocks)


class OrthogonalRNN(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.recurrent = nn.Parameter(rotations_in_planes(HIDDEN))
        self.input = nn.Linear(inputs, HIDDEN, bias=False)
        self.bias = nn.Parameter(torch.empty(HIDDEN).uniform_(-0.01, 0.01))
        self.output = nn.Linear(HIDDEN, outputs)
        nn.init.kaiming_normal_(self.input.weight)

    def forward(self, x: Tensor) -> Tensor:
        """States `(T, N, HIDDEN)` of the inputs `(T, N, inputs)`."""
        h = x.new_zeros(x.shape[1], HIDDEN)
        states = []
        for shown in self.input(x):
            z = torch.addmm(shown, h, self.recurrent.mT)
            h = torch.sgn(z) * torch.relu(z.abs() + self.bias)
            states.append(h)
        return torch.stack(states)


def examples(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs `(T, n, SYMBOLS + 2)` as one-hot vectors, and the symbols `(RECALL, n)`."""
    symbols = torch.randint(SYMBOLS, (RECALL, n), generator=generator)
    shown = torch.full((RECALL + DELAY + RECALL, n), SYMBOLS)  # blanks
    shown[:RECALL] = symbols
    shown[RECALL + DELAY] = SYMBOLS + 1  # the marker
    return functional.one_hot(shown, SYMBOLS + 2).float(), symbols


def build(seed: int) -> Training:
    torch.manual_seed(seed)
    net = OrthogonalRNN(SYMBOLS + 2, SYMBOLS)
    generator = torch.Generator().manual_seed(seed)
    held = examples(1000, torch.Generator().manual_seed(seed + 10_000))

    def error(x: Tensor, symbols: Tensor) -> Tensor:
        said = net.output(net(x)[-RECALL:])
        return functional.cross_entropy(said.flatten(0, 1), symbols.flatten())

    return Training(
        net,
        {"recurrent": Stiefel()},
        lambda step: error(*examples(BATCH, generator)),
        lambda: Figures(error(*held).item()),
    )


TASK = TrainingTask("copying_rnn", "orthogonal RNN, copying", "network", 400, build)
