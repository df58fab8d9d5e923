"""Real data that needs no network: handwritten digits of scikit-learn, text of Python's manual."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_tasks.interface import Figures

TEST_DIGITS = 500
BATCH = 64


class Split(NamedTuple):
    """Digits to train on and to test on: images `(N, 64)` in [0, 1], labels `(N,)`."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@cache
def digits() -> tuple[Tensor, Tensor]:
    """All 1,797 images of 8×8 pixels in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def split_digits(seed: int) -> Split:
    """1,297 digits to train on and 500 to test on."""
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, rest = order[:TEST_DIGITS], order[TEST_DIGITS:]
    return Split(x[rest], y[rest], x[test], y[test])


def batches(seed: int, examples: int, batch: int = BATCH) -> Callable[[int], Tensor]:
    """Indices of the examples of a step; batches are drawn with replacement of batches."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.randint(examples, (batch,), generator=generator)


def classifier(
    model: nn.Module, data: Split, seed: int
) -> tuple[Callable[[int], Tensor], Callable[[], Figures]]:
    """Cross-entropy of a batch, and of all data."""
    draw = batches(seed, len(data.x))

    def loss(step: int) -> Tensor:
        chosen = draw(step)
        return functional.cross_entropy(model(data.x[chosen]), data.y[chosen])

    def evaluate() -> Figures:
        return Figures(
            functional.cross_entropy(model(data.x), data.y).item(),
            functional.cross_entropy(model(data.test_x), data.test_y).item(),
        )

    return loss, evaluate


@cache
def text() -> tuple[Tensor, int]:
    """Python's manual as numbers of characters, and how many different ones there are."""
    from pydoc_data.topics import topics

    whole = "".join(topics[key] for key in sorted(topics))[:400_000].lower()
    frequent = sorted(c for c in set(whole) if whole.count(c) > 100)
    number = {c: i + 1 for i, c in enumerate(frequent)}
    return torch.tensor([number.get(c, 0) for c in whole]), len(frequent) + 1


@cache
def trained_network() -> nn.Sequential:
    """A classifier of upright digits, 64-96-96-10, to adapt; the same whatever the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10)
        )
        loss, _ = classifier(net, split_digits(0), 0)
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for step in range(300):
            optimizer.zero_grad()
            loss(step).backward()
            optimizer.step()
    return net.requires_grad_(False)


def turned(data: Split) -> Split:
    """The same digits, turned by a quarter and with black and white exchanged."""

    def turn(x: Tensor) -> Tensor:
        return 1 - x.view(-1, 8, 8).rot90(1, (1, 2)).reshape(-1, 64)

    return Split(turn(data.x), data.y, turn(data.test_x), data.test_y)
