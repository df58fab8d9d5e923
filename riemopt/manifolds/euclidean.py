"""Euclidean space: every tensor is a point. The manifold of an unconstrained parameter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt.manifolds.linear import LinearSubspace


@final
@dataclass(frozen=True, repr=False)
class Euclidean(LinearSubspace):
    """ℝ or ℂ: every entry of the tensor is a point by itself, and there is no constraint.

    A parameter on it is stepped exactly as torch's own optimizer steps it.

    Dimension: 1 an entry; 2 if complex.

    For: free parts of a `Product`; code that wants a manifold for every weight.

    Not for: a weight by itself, which needs no manifold.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Euclidean
        >>> Euclidean().retract(torch.zeros(2), torch.ones(2))
        tensor([1., 1.])
    """

    event_ndim = 0
    is_constraint = False

    @override
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """Re(conj(u)·v) of each entry. (To torch, a sum over no dimensions is one over all.)"""
        return (u.conj() * v).real if u.is_complex() else u * v

    @override
    def violation(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x.real)

    @override
    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs()

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        pass

    @override
    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        return 2 if is_complex else 1
