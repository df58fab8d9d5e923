"""What a workload and a method are.

A workload is a set of tensors with a start, a fixed gradient and a surface each; it knows nothing
of methods. A method takes such tensors and returns a function that does one step over and over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["stiefel", "sphere", "symmetric", "plain"]


@dataclass(frozen=True)
class Item:
    """`count` separate tensors of one shape.

    `stiefel`: matrices (a batch of them, if there are three dimensions) with orthonormal columns,
    or rows where they are wide; four dimensions are a convolution kernel, (out, in·kh·kw).
    `sphere`: rows of norm one. `symmetric`: W = Wᵀ. `plain`: no constraint.
    """

    shape: tuple[int, ...]
    kind: Kind
    count: int = 1

    @property
    def matrix(self) -> tuple[int, int]:
        """Long and short side of one matrix."""
        rows = self.shape[0] if len(self.shape) == 4 else self.shape[-2]
        columns = math.prod(self.shape[1:]) if len(self.shape) == 4 else self.shape[-1]
        return max(rows, columns), min(rows, columns)


@dataclass(frozen=True)
class Start:
    """One tensor of a workload: where it starts, and the gradient that it gets at every call."""

    item: Item
    point: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class Workload:
    """Tensors that one optimizer steps together. `quick` ones are part of a quick run."""

    name: str
    title: str
    items: tuple[Item, ...]
    quick: bool = False

    @property
    def kinds(self) -> frozenset[Kind]:
        """The surfaces that occur."""
        return frozenset(item.kind for item in self.items)

    @property
    def is_stiefel(self) -> bool:
        """Whether all tensors are on Stiefel manifolds, so that the floor is a measure."""
        return self.kinds == {"stiefel"}

    @property
    def has_many(self) -> bool:
        """Whether there are separate parameters of one shape."""
        return any(item.count > 1 for item in self.items)

    @property
    def group_bytes(self) -> int:
        """Bytes of the largest set of tensors of one shape and surface, in float32."""
        totals: dict[tuple[tuple[int, ...], Kind], int] = {}
        for item in self.items:
            key = (item.shape, item.kind)
            totals[key] = totals.get(key, 0) + 4 * item.count * math.prod(item.shape)
        return max(totals.values())

    def starts(self, seed: int = 0) -> list[Start]:
        """The tensors; gradients have entries N(0, 1). The same for every method."""
        generator = torch.Generator().manual_seed(seed)

        def normal(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator)

        return [
            Start(item, _on_surface(item, normal(item.shape)), normal(item.shape))
            for item in self.items
            for _ in range(item.count)
        ]


def _on_surface(item: Item, a: Tensor) -> Tensor:
    """A point near to rounding: computed in float64, stored in float32."""
    x = a.double()
    if item.kind == "stiefel":
        x = x.flatten(1) if x.ndim == 4 else x
        wide = x.shape[-2] < x.shape[-1]
        q = torch.linalg.qr(x.mT if wide else x).Q
        x = (q.mT if wide else q).reshape(item.shape)
    elif item.kind == "sphere":
        x = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    elif item.kind == "symmetric":
        x = (x + x.mT) / 2
    else:
        x = x / math.sqrt(item.shape[-1])
    return x.float().contiguous()


def violation(kind: Kind, weight: Tensor) -> float:
    """Largest residual of the surface's equations in float64; of no method's own making."""
    w = weight.detach().double()
    if kind == "stiefel":
        w = w.flatten(1) if w.ndim == 4 else w
        w = w.mT if w.shape[-2] < w.shape[-1] else w
        residual = w.mT @ w - torch.eye(w.shape[-1], dtype=w.dtype)
    elif kind == "symmetric":
        residual = w - w.mT
    elif kind == "sphere":
        residual = torch.linalg.vector_norm(w, dim=-1) - 1
    else:
        return 0.0
    return residual.abs().max().item()


@dataclass
class Attached:
    """A method that was given a workload's tensors.

    `call` does one step, all by itself. `moved` are the tensors that it moves, `gradients` those
    that hold the gradient, in the order of the workload. `weights` gives the constrained tensors,
    in any layout that `violation` takes; `held` all that is kept between steps. With `drifts`,
    what is moved is put back not to its start but to where it is after warm-up. Operators of a
    call that is not `eager` cannot be counted.
    """

    call: Callable[[], object]
    moved: Sequence[Tensor]
    gradients: Sequence[Tensor]
    weights: Callable[[], list[tuple[Kind, Tensor]]]
    held: Callable[[], list[Tensor]]
    drifts: bool = False
    eager: bool = True

    def __post_init__(self) -> None:
        self._anchors = [tensor.detach().clone() for tensor in self.moved]

    @cached_property
    def _targets(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self.moved]

    def put_back(self) -> None:
        """Move everything back, so that steps stay as long as they were."""
        torch._foreach_copy_(self._targets, self._anchors)

    def settle(self) -> None:
        """Called after warm-up."""
        if self.drifts:
            torch._foreach_copy_(self._anchors, self._targets)


@dataclass(frozen=True)
class Method:
    """A way to take a step.

    `counterparts`: riemopt's methods that do the same work; the first that was run is compared
    with. A `heavy` method forms n×n matrices or worse: one call is tried in a process of its own
    first, under a time limit.
    """

    name: str
    title: str
    family: str
    description: str
    attach: Callable[[Sequence[Start]], Attached]
    applies: Callable[[Workload], bool]
    counterparts: tuple[str, ...] = ()
    heavy: bool = False
