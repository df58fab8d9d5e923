"""Digits read pixel by pixel by an orthogonal recurrent network (Le, Jaitly & Hinton 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._digits import VALIDATION, learn_from, split_digits
from riemopt_bench.problems._learning import Learning, accuracy
from riemopt_bench.problems._recurrent import OrthogonalRNN
from riemopt_bench.surfaces import Stiefel


class Reader(nn.Module):
    """Reads `pixels` of them at a time, and says the digit at the end."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.rnn = OrthogonalRNN(pixels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, 10)` of images `(N, 64)`."""
        return self.rnn.output(self.rnn(x.view(len(x), -1, self.pixels).transpose(0, 1))[-1])


def learn(seed: int, validation: int = VALIDATION, pixels: int = 1) -> Learning:
    """Model and data, all from `seed`."""
    torch.manual_seed(seed)
    net = Reader(pixels)
    return learn_from(split_digits(seed, validation), seed, net, {"rnn.recurrent": Stiefel()})


def build(seed: int) -> Task:
    """Judged by accuracy."""
    return learn(seed).task(accuracy)


PROBLEMS = (
    Problem(
        name="pixel-rnn",
        title="Orthogonal RNN, pixel by pixel",
        description="8×8 digits as 64 inputs one after the other; a 64×64 orthogonal recurrence.",
        metric="test accuracy",
        higher_is_better=True,
        target=0.93,
        surfaces=frozenset({Stiefel()}),
        build=build,
        reference="Adam without the constraint, from the same orthogonal start, tuned in the same "
        "way; set up as the pixel-by-pixel MNIST of Le, Jaitly & Hinton (2015).",
        budget=Budget(80, records=20),
    ),
)
