"""The tensors that are stepped: single matrices, many small ones, batches, whole models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from riemopt_bench.interface import Evaluation, Task
from riemopt_bench.surfaces import Sphere, Stiefel, Surface, Symmetric


@dataclass(frozen=True)
class Item:
    """`count` separate tensors of one shape; `surface` is None where nothing has to be kept."""

    shape: tuple[int, ...]
    surface: Surface | None
    count: int = 1

    @property
    def numel(self) -> int:
        """The number of entries of all of them together."""
        return self.count * math.prod(self.shape)


class Holder(nn.Module):
    """A module with one weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


@dataclass(frozen=True)
class Workload:
    """Tensors that one optimizer steps together.

    `quick` ones are part of a quick run, `large` ones of runs on a GPU, or where they are named.
    """

    name: str
    title: str
    items: tuple[Item, ...]
    quick: bool = False
    large: bool = False

    @property
    def surfaces(self) -> frozenset[Surface]:
        """The surfaces that occur."""
        return frozenset(item.surface for item in self.items if item.surface is not None)

    @property
    def bounded(self) -> bool:
        """⟨W, C⟩ has no minimum without constraints."""
        return False

    @property
    def full_batch(self) -> bool:
        """C is the same at every step."""
        return True

    @property
    def has_plain(self) -> bool:
        """Whether there are unconstrained tensors, as in a model."""
        return any(item.surface is None for item in self.items)

    @property
    def has_many(self) -> bool:
        """Whether there are separate parameters of one shape."""
        return any(item.count > 1 for item in self.items)

    def is_only(self, kind: type[Surface], or_plain: bool = False) -> bool:
        """Whether all tensors are on such surfaces, or unconstrained where that is allowed."""
        constrained = all(isinstance(surface, kind) for surface in self.surfaces)
        return bool(self.surfaces) and constrained and (or_plain or not self.has_plain)

    @property
    def group_bytes(self) -> int:
        """Bytes of the largest set of tensors of one shape and surface, in float32."""
        totals: dict[tuple[tuple[int, ...], Surface | None], int] = {}
        for item in self.items:
            key = (item.shape, item.surface)
            totals[key] = totals.get(key, 0) + 4 * item.numel
        return max(totals.values())

    def build(self, seed: int = 0, device: str = "cpu") -> Task:
        """The loss is ⟨W, C⟩; the entries of C, which is the gradient, are N(0, 1).

        They are the same on each device.
        """
        generator = torch.Generator().manual_seed(seed)
        holders, surfaces, targets = nn.ModuleList(), {}, []
        for item in self.items:
            for _ in range(item.count):
                noise = torch.randn(item.shape, generator=generator).to(device)
                targets.append(torch.randn(item.shape, generator=generator).to(device))
                if item.surface is not None:
                    surfaces[f"{len(holders)}.weight"] = item.surface
                    holders.append(Holder(item.surface.start(noise)))
                else:
                    holders.append(Holder(noise / math.sqrt(item.shape[-1])))
        return Task(
            holders,
            surfaces,
            batch=lambda step: targets,
            loss=_inner_product,
            evaluate=lambda model: Evaluation(*[_inner_product(model, targets).item()] * 2),
        )


def _inner_product(model: nn.Module, targets: Sequence[Tensor]) -> Tensor:
    holders: Any = model.children()
    terms = [(holder.weight * c).sum() for holder, c in zip(holders, targets, strict=True)]
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum()


def _one(
    name: str,
    title: str,
    shape: tuple[int, ...],
    surface: Surface,
    **when: bool,
) -> Workload:
    return Workload(name, title, (Item(shape, surface),), **when)


def matrix(n: int, p: int, **when: bool) -> Workload:
    """One Stiefel matrix."""
    return _one(f"{n}x{p}", f"one {n}×{p} matrix", (n, p), Stiefel(), **when)


def separate(count: int, n: int, quick: bool = False) -> Workload:
    """Many separate square Stiefel parameters."""
    item = Item((n, n), Stiefel(), count)
    return Workload(f"{count}-of-{n}x{n}", f"{count:,} separate {n}×{n} matrices", (item,), quick)


def _batch(count: int, n: int, **when: bool) -> Workload:
    shape = (count, n, n)
    return _one(
        f"{count}x{n}x{n}", f"one batch of {count:,} {n}×{n} matrices", shape, Stiefel(), **when
    )


def transformer(width: int, layers: int, vocabulary: int = 1000) -> tuple[Item, ...]:
    """Parameters of a small transformer: 12 tensors a layer and 6 others, all unconstrained."""
    vectors, hidden = (width,), 4 * width
    shapes: list[tuple[int, ...]] = []
    for _ in range(layers):
        shapes += [(3 * width, width), (3 * width,), (width, width), vectors]
        shapes += [(hidden, width), (hidden,), (width, hidden), vectors]
        shapes += [vectors] * 4  # two layer norms
    shapes += [(vocabulary, width), (128, width), vectors, vectors]
    shapes += [(vocabulary, width), (vocabulary,)]
    return tuple(Item(shape, None) for shape in shapes)


_PLAIN = transformer(width=128, layers=5)
_MIXED = (*transformer(width=64, layers=16), Item((128, 64), Stiefel(), 2))

WORKLOADS = {
    workload.name: workload
    for workload in (
        matrix(64, 64, quick=True),
        matrix(256, 256, quick=True),
        matrix(512, 512),
        matrix(1024, 1024),
        matrix(4096, 4096, large=True),
        matrix(1024, 64, quick=True),
        matrix(4096, 64),
        matrix(16384, 128),
        matrix(16384, 1024, large=True),
        separate(64, 64),
        separate(1000, 16),
        _batch(1000, 16, quick=True),
        _batch(100, 64),
        _batch(10000, 3),
        _batch(10000, 64, large=True),
        _one(
            "conv-256x128x3x3",
            "a 3×3 convolution, 128 to 256 channels",
            (256, 128, 3, 3),
            Stiefel(kernel=True),
        ),
        _one("sphere-4096x1024", "4,096 unit rows of 1,024", (4096, 1024), Sphere()),
        _one("sphere-50000x64", "50,000 unit rows of 64", (50000, 64), Sphere()),
        _one("symmetric-1024", "one symmetric 1024×1024 matrix", (1024, 1024), Symmetric()),
        Workload(
            "plain-model", f"a transformer, {len(_PLAIN)} unconstrained tensors", _PLAIN, quick=True
        ),
        Workload(
            "mixed-model",
            f"{len(_MIXED) + 1} tensors of a transformer, two on Stiefel",
            _MIXED,
        ),
    )
}

SQUARE = ("64x64", "256x256", "512x512", "1024x1024")
TALL = ("1024x64", "4096x64", "16384x128")
SMALL = ("64-of-64x64", "1000-of-16x16", "1000x16x16", "100x64x64", "10000x3x3")
