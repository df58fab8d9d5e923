"""Entries that stay as they are: a part of a product that no step changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt.manifolds.base import Manifold


@final
@dataclass(frozen=True, repr=False)
class Frozen(Manifold):
    """Every tensor is a point, and no step moves it: tangent spaces are {0}, the dimension is 0.

        Product({"origin": (Frozen(), 3), "direction": (Sphere(), 3)})

    Each entry is a point by itself. What you write into it stays, bit for bit.

    Dimension: 0.

    For: a part of a weight beside parts that move.

    Not for: the whole of a weight (`requires_grad_(False)`); rows of a table (`ExceptRows`).

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Frozen
        >>> Frozen().proj_tangent(torch.ones(2), torch.ones(2))
        tensor([0., 0.])
    """

    event_ndim = 0
    keeps_entries = True
    allows_elementwise_scaling = True  # moments of a gradient that is 0 are 0

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.zeros_like(u)

    @override
    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        return (u.conj() * v).real if u.is_complex() else u * v

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)

    @override
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        return self.retract(x, u)

    @override
    def project(self, a: Tensor) -> Tensor:
        return a.clone(memory_format=torch.contiguous_format)

    @override
    def violation(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x.real)

    @override
    def tolerance(self, x: Tensor) -> Tensor:
        return torch.full_like(x.real, torch.finfo(x.dtype).eps)

    @override
    def parallel_transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v

    @override
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        return self.retract(x, u)

    @override
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @override
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """0 where x = y; between other points there is no way, and it is infinite."""
        return torch.zeros_like(x.real).masked_fill(x != y, torch.inf)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        pass

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        return 0
