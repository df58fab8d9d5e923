"""Python's manual, which every Python has with it, as windows of characters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from riemopt_bench.problems._learning import Labelled, Learning, cross_entropy, draws
from riemopt_bench.surfaces import Surface

BATCH, HELD = 16, 64
VALIDATION = 0.1


@cache
def text() -> tuple[Tensor, int]:
    """The manual as numbers of characters, and how many different ones there are."""
    from pydoc_data.topics import topics

    whole = "".join(topics[key] for key in sorted(topics))[:400_000].lower()
    frequent = sorted(c for c in set(whole) if whole.count(c) > 100)
    number = {c: i + 1 for i, c in enumerate(frequent)}
    return torch.tensor([number.get(c, 0) for c in whole]), len(frequent) + 1


def learn_text(
    seed: int,
    model: nn.Module,
    surfaces: Mapping[str, Surface],
    context: int,
    validation: float = VALIDATION,
) -> Learning:
    """Windows of `context` characters, and the one that follows each; the last tenth is to test.

    The part before the last tenth, of the size `validation`, is to choose a learning rate by.
    """
    characters, _ = text()
    cut = len(characters) * 9 // 10
    seen = cut - int(len(characters) * validation)
    parts = {"training": characters[:seen], "test": characters[cut:]}
    if validation:
        parts["validation"] = characters[seen:cut]

    def starts(part: Tensor, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(len(part) - context - 1, (n, 1), generator=generator)

    def windows(part: Tensor, starts: Tensor) -> Labelled:
        read = part[starts + torch.arange(context + 1)]
        return read[:, :-1], read[:, 1:]

    chosen = draws(seed, lambda generator: starts(parts["training"], BATCH, generator))
    held = torch.Generator().manual_seed(seed + 10_000)
    fixed = {name: windows(part, starts(part, HELD, held)) for name, part in parts.items()}
    return Learning(
        model,
        surfaces,
        lambda step: windows(parts["training"], chosen(step)),
        cross_entropy,
        **fixed,
    )
