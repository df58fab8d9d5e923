"""The surfaces that weights live on: one small class each.

    @dataclass(frozen=True)
    class Sphere(Surface):
        dim: int = -1

        def residual(self, weight):
            return vector_norm(weight, dim=self.dim) - 1

        def nearest(self, weight):
            return weight / vector_norm(weight, dim=self.dim, keepdim=True)

A new surface is one such class, in any file; it is a value, and equal to another with equal fields.
A library that can keep a weight on it says how in its file of `libraries/`, or in the file of the
surface, through `functools.singledispatch`. Nothing here is taken from a library under test, so
that no method is judged by its own ruler.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override


class Surface(ABC):
    """Where a weight has to stay. `residual` and `nearest` are required."""

    @abstractmethod
    def residual(self, weight: Tensor) -> Tensor:
        """Left sides minus right sides of the surface's equations, in any shape: zero on it."""

    @abstractmethod
    def nearest(self, weight: Tensor) -> Tensor:
        """The point of the surface nearest to `weight`."""

    def violation(self, weight: Tensor) -> float:
        """Largest entry of the residual, computed in float64."""
        return self.residual(weight.detach().double()).abs().max().item()

    def start(self, noise: Tensor) -> Tensor:
        """A point made of random numbers, as near to the surface as rounding allows."""
        return self.nearest(noise.double()).to(noise.dtype).contiguous()


@dataclass(frozen=True)
class Stiefel(Surface):
    """Matrices with orthonormal columns, WᵀW = I; with orthonormal rows where they are wide.

    Leading dimensions are a batch. With `kernel`, the weight of a convolution, of shape
    (out, in, height, width), is one matrix of `out` rows.
    """

    kernel: bool = False

    def tall(self, weight: Tensor) -> Tensor:
        """The matrices with at least as many rows as columns: flattened and transposed views."""
        matrix = weight.flatten(1) if self.kernel else weight
        return matrix.mT if matrix.shape[-2] < matrix.shape[-1] else matrix

    def from_tall(self, tall: Tensor, shape: torch.Size) -> Tensor:
        """The weight of that shape whose `tall` is given."""
        rows = shape[0] if self.kernel else shape[-2]
        return (tall if tall.shape[-2] == rows else tall.mT).reshape(shape)

    def sides(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Long and short side of one matrix."""
        rows, columns = (shape[0], math.prod(shape[1:])) if self.kernel else shape[-2:]
        return max(rows, columns), min(rows, columns)

    @override
    def residual(self, weight: Tensor) -> Tensor:
        X = self.tall(weight)
        return X.mT @ X - torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)

    @override
    def nearest(self, weight: Tensor) -> Tensor:
        left, _, right = torch.linalg.svd(self.tall(weight), full_matrices=False)
        return self.from_tall(left @ right, weight.shape)

    @override
    def start(self, noise: Tensor) -> Tensor:
        # Uniformly distributed, and much cheaper than the nearest point.
        q = torch.linalg.qr(self.tall(noise.double())).Q
        return self.from_tall(q, noise.shape).to(noise.dtype).contiguous()


@dataclass(frozen=True)
class Symmetric(Surface):
    """The last two dimensions are a symmetric matrix, W = Wᵀ."""

    @override
    def residual(self, weight: Tensor) -> Tensor:
        return weight - weight.mT

    @override
    def nearest(self, weight: Tensor) -> Tensor:
        return (weight + weight.mT) / 2


@dataclass(frozen=True)
class Sphere(Surface):
    """Every slice along `dim` has norm one."""

    dim: int = -1

    @override
    def residual(self, weight: Tensor) -> Tensor:
        return torch.linalg.vector_norm(weight, dim=self.dim) - 1

    @override
    def nearest(self, weight: Tensor) -> Tensor:
        return weight / torch.linalg.vector_norm(weight, dim=self.dim, keepdim=True)


@dataclass(frozen=True)
class Subspace(Stiefel):
    """Orthonormal columns of which the loss sees the span alone: points of a Grassmann manifold."""


@dataclass(frozen=True)
class Rotation(Stiefel):
    """Square matrices with orthonormal columns and determinant 1."""

    @override
    def residual(self, weight: Tensor) -> Tensor:
        gram = super().residual(weight).flatten(-2)
        return torch.cat([gram, torch.linalg.det(weight).unsqueeze(-1) - 1], dim=-1)

    @override
    def nearest(self, weight: Tensor) -> Tensor:
        left, _, right = torch.linalg.svd(weight)
        left[..., -1] *= torch.linalg.det(left @ right).sign().unsqueeze(-1)
        return left @ right

    @override
    def start(self, noise: Tensor) -> Tensor:
        q = torch.linalg.qr(noise.double()).Q
        q[..., -1] *= torch.linalg.det(q).sign().unsqueeze(-1)
        return q.to(noise.dtype).contiguous()


@dataclass(frozen=True)
class PositiveDefinite(Surface):
    """Symmetric positive definite matrices. `floor` is the least eigenvalue of `nearest`."""

    floor: float = 1e-6

    @override
    def residual(self, weight: Tensor) -> Tensor:
        least = torch.linalg.eigvalsh((weight + weight.mT) / 2)[..., :1]
        return torch.cat([(weight - weight.mT).flatten(-2), least.clamp(max=0)], dim=-1)

    @override
    def nearest(self, weight: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh((weight + weight.mT) / 2)
        return (vectors * values.clamp(min=self.floor).unsqueeze(-2)) @ vectors.mT


@dataclass(frozen=True)
class LowRank(Surface):
    """Matrices of a rank. The residual holds the singular values beyond it."""

    rank: int

    @override
    def residual(self, weight: Tensor) -> Tensor:
        return torch.linalg.svdvals(weight)[..., self.rank :]

    @override
    def nearest(self, weight: Tensor) -> Tensor:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        r = self.rank
        return (left[..., :r] * values[..., None, :r]) @ right[..., :r, :]


@dataclass(frozen=True)
class PoincareBall(Surface):
    """Rows inside the unit ball, with the hyperbolic metric of curvature -1 (Poincaré's model).

    `nearest` leaves a point of the ball where it is, and puts others just inside.
    """

    @override
    def residual(self, weight: Tensor) -> Tensor:
        return (torch.linalg.vector_norm(weight, dim=-1) - 1).clamp(min=0)

    @override
    def nearest(self, weight: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(weight, dim=-1, keepdim=True)
        return weight * (norm.clamp(max=1 - 1e-5) / norm.clamp(min=1e-30))
