"""Copying memory (Arjovsky, Shah & Bengio 2016) with an orthogonal recurrent network.

Five of eight symbols are shown, then blanks, then a marker; the network has to say the symbols
again. One that remembers nothing can only guess, with a loss of ln 8 = 2.08.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from riemopt_bench.interface import Budget, Problem, Task
from riemopt_bench.problems._learning import Labelled, Learning, cross_entropy, draws
from riemopt_bench.problems._recurrent import OrthogonalRNN
from riemopt_bench.surfaces import Stiefel

SYMBOLS, RECALL, BATCH, HELD = 8, 5, 64, 1000
DELAY = 30


class Copier(nn.Module):
    """Says a symbol at each of the last `RECALL` inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = OrthogonalRNN(SYMBOLS + 2, SYMBOLS)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(RECALL, N, SYMBOLS)` of the inputs `(T, N, SYMBOLS + 2)`."""
        return self.rnn.output(self.rnn(x)[-RECALL:])


def drawn(n: int, generator: torch.Generator) -> Tensor:
    """Symbols `(RECALL, n)`."""
    return torch.randint(SYMBOLS, (RECALL, n), generator=generator)


def shown(symbols: Tensor, delay: int) -> Labelled:
    """Inputs `(T, n, SYMBOLS + 2)` as one-hot vectors, and the symbols to say."""
    inputs = torch.full((RECALL + delay + RECALL, symbols.shape[1]), SYMBOLS)  # blanks
    inputs[:RECALL] = symbols
    inputs[RECALL + delay] = SYMBOLS + 1  # the marker
    return functional.one_hot(inputs, SYMBOLS + 2).float(), symbols


def learn(seed: int, delay: int = DELAY) -> Learning:
    """Model and data, all from `seed`; every batch is new."""
    torch.manual_seed(seed)
    symbols = draws(seed, lambda generator: drawn(BATCH, generator))
    test, validation = (
        shown(drawn(HELD, torch.Generator().manual_seed(seed + n)), delay) for n in (10_000, 20_000)
    )
    return Learning(
        Copier(),
        {"rnn.recurrent": Stiefel()},
        lambda step: shown(symbols(step), delay),
        cross_entropy,
        test,
        validation,
    )


def build(seed: int) -> Task:
    """Judged by the loss."""
    return learn(seed).task()


PROBLEMS = (
    Problem(
        name="copying-memory",
        title="Copying memory",
        description="Say five symbols again after 30 blanks; a 64×64 orthogonal recurrence.",
        metric="test loss",
        higher_is_better=False,
        target=1e-3,
        surfaces=frozenset({Stiefel()}),
        build=build,
        reference="ln 8 = 2.08 without memory; Adam without the constraint, from the same "
        "orthogonal start, tuned in the same way. Set up as in Arjovsky, Shah & Bengio (2016).",
        log_metric=True,
        budget=Budget(120, records=20),
    ),
)
