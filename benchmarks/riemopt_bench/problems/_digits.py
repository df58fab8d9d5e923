"""Handwritten digits of scikit-learn, cut in parts, and a network that knows them already."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from riemopt_bench.problems._learning import Labelled, Learning, Loss, cross_entropy, draws
from riemopt_bench.surfaces import Surface

TEST, VALIDATION = 500, 300
BATCH = 64


class Parts(NamedTuple):
    """Images `(N, 64)` in [0, 1] (or what stands for them), and labels `(N,)`."""

    training: Labelled
    validation: Labelled
    test: Labelled


@cache
def digits() -> Labelled:
    """All 1,797 images of 8×8 pixels in [0, 1], and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def split_digits(seed: int, validation: int = VALIDATION, seen: Tensor | None = None) -> Parts:
    """500 digits to test on, those to choose a learning rate by, and the others to train on.

    `seen` holds what is shown of all digits in place of their images, in the same order.
    """
    x, y = digits()
    x = x if seen is None else seen
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, held, rest = order.split([TEST, validation, len(x) - TEST - validation])
    return Parts((x[rest], y[rest]), (x[held], y[held]), (x[test], y[test]))


def turned(parts: Parts) -> Parts:
    """The same digits, turned by a quarter and with black and white exchanged."""

    def turn(x: Tensor) -> Tensor:
        return 1 - x.view(-1, 8, 8).rot90(1, (1, 2)).reshape(-1, 64)

    return Parts(*((turn(x), y) for x, y in parts))


def learn_from(
    parts: Parts,
    seed: int,
    model: nn.Module,
    surfaces: Mapping[str, Surface],
    loss: Loss = cross_entropy,
) -> Learning:
    """Batches of 64 digits, drawn with replacement."""
    x, y = parts.training
    chosen = draws(seed, lambda generator: torch.randint(len(x), (BATCH,), generator=generator))

    def batch(step: int) -> Labelled:
        return x[chosen(step)], y[chosen(step)]

    return Learning(model, surfaces, batch, loss, parts.test, parts.validation, parts.training)


@cache
def trained_network() -> nn.Sequential:
    """A classifier of upright digits, 64-96-96-10, to adapt; the same whatever the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10)
        )
        learning = learn_from(split_digits(0, validation=0), 0, net, {})
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        with torch.enable_grad():
            for step in range(300):
                optimizer.zero_grad()
                learning.loss(net, learning.batch(step)).backward()
                optimizer.step()
    net.zero_grad()  # or an optimizer of the frozen network would take one more step
    return net.requires_grad_(False)


def adapted(wrap: type[nn.Module]) -> nn.Sequential:
    """The trained network, frozen, with each of its layers in a `wrap`."""
    return nn.Sequential(*[wrap(f) if isinstance(f, nn.Linear) else f for f in trained_network()])
