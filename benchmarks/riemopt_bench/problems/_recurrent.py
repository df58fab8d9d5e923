"""An orthogonal recurrent network, as in the example of geotorch (Lezcano-Casado 2019).

h_t = modReLU(W h_{t-1} + V x_t),  W orthogonal; at the start, rotations by random angles in planes
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rotations_in_planes(n: int) -> Tensor:
    """Block-diagonal n×n with n/2 rotations by random angles."""
    angles = (torch.rand(n // 2) * 2 - 1) * torch.pi
    cos, sin = angles.cos(), angles.sin()
    blocks = torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)
    return torch.block_diag(*blocks)


class OrthogonalRNN(nn.Module):
    """`recurrent` is the orthogonal weight; `output` is for whoever uses the states."""

    def __init__(self, inputs: int, outputs: int, hidden: int = 64) -> None:
        super().__init__()
        self.recurrent = nn.Parameter(rotations_in_planes(hidden))
        self.input = nn.Linear(inputs, hidden, bias=False)
        self.bias = nn.Parameter(torch.empty(hidden).uniform_(-0.01, 0.01))
        self.output = nn.Linear(hidden, outputs)
        nn.init.kaiming_normal_(self.input.weight)

    def forward(self, x: Tensor) -> Tensor:
        """States `(T, N, hidden)` of the inputs `(T, N, inputs)`."""
        h = x.new_zeros(x.shape[1], len(self.recurrent))
        states = []
        for shown in self.input(x):
            z = torch.addmm(shown, h, self.recurrent.mT)
            h = torch.sgn(z) * torch.relu(z.abs() + self.bias)
            states.append(h)
        return torch.stack(states)
