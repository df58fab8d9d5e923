"""Euclidean space: every tensor is a point. The manifold of an unconstrained parameter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from riemopt.manifolds.linear import LinearSubspace


@final
@dataclass(frozen=True, repr=False)
class Euclidean(LinearSubspace):
    """ℝ or ℂ: every entry of the tensor is a point by itself, and there is no constraint.

    A parameter on it is stepped exactly as torch's own optimizer steps it.
    """

    event_ndim = 0
    is_constraint = False

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """`u` itself."""
        return u

    def inner(self, x: Tensor, u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
        """Re(conj(u)·v) of each entry. (To torch, a sum over no dimensions is one over all.)"""
        return (u.conj() * v).real if u.is_complex() else u * v

    def violation(self, x: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(x.real)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """|x - y| of each entry."""
        return (x - y).abs()

    def check_shape(self, shape: Sequence[int]) -> None:
        """Every shape is accepted."""

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """1, or 2 for complex tensors."""
        return 2 if is_complex else 1
