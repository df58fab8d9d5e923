"""What manifolds of matrices X = YYᴴ of rank k have in common: stored is the factor Y, n×k."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from riemopt import linalg
from riemopt.linalg import decompositions, exact_products, upcast
from riemopt.manifolds.base import Manifold

MARGIN = 0.01


class Factors(Manifold):
    """Positive semidefinite matrices X = YYᴴ, of which Y, YQ and no others stand for one.

    Q is orthogonal, or unitary. The metric is the ambient one on horizontal vectors, for which YᴴU
    is Hermitian. Implementations supply the manifold of all Y (`total_space`) and `dim`.
    """

    event_ndim = 2
    rank: int

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 1:
            name = type(self).__name__
            raise ValueError(f"{name} needs a rank of 1 or more; got {self.rank!r}.")

    @property
    @abstractmethod
    def total_space(self) -> Manifold:
        """The manifold of all factors Y; its points may be single rows."""

    @property
    @override
    def margin(self) -> float:
        return MARGIN

    @override
    def invariants(self, x: Tensor) -> Tensor:
        """YYᴴ, n×n."""
        return x @ x.mH

    @override
    @upcast
    @exact_products
    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """The tangent part of U in the total space, less YΩ with YᴴYΩ + ΩYᴴY = YᴴU - UᴴY."""
        return linalg.without_rotation(x, self.total_space.proj_tangent(x, u))

    @override
    def ehess2rhess(self, x: Tensor, g: Tensor, h: Tensor, u: Tensor) -> Tensor:
        """The horizontal part of that of the total space, of a loss that depends on YYᴴ alone."""
        return self.proj_tangent(x, self.total_space.ehess2rhess(x, g, h, u))

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return self.total_space.retract(x, u)

    @override
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        return self.total_space.curve(x, u, t)

    @override
    @upcast
    def project(self, a: Tensor) -> Tensor:
        """The nearest point of the total space, if its rank is k to rounding.

        Else one with singular values of .01·σ₁/√k at least, σ₁ the largest: from a lower rank no
        gradient leads to a higher one. By an SVD, which synchronises on an accelerator.
        """
        y = self.total_space.project(a)
        return self.total_space.project(y + _missing(y.detach()))

    @override
    def violation(self, x: Tensor) -> Tensor:
        """That of the total space: it does not look at the rank."""
        violation = self.total_space.violation(x)
        return violation.flatten(x.ndim - 2).amax(-1) if violation.ndim > x.ndim - 2 else violation

    @override
    def exp(self, x: Tensor, u: Tensor) -> Tensor:
        """The geodesic of the total space, which stays horizontal; minimal while rank is kept."""
        return self.total_space.exp(x, u).contiguous()

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        """Two or more dimensions, the last one of size `rank`, the one before it no smaller."""
        k = self.rank
        if len(shape) < 2 or shape[-1] != k or shape[-2] < k:
            advice = f" A point is the factor Y of the n×n matrix YYᴴ of rank {k}, not that matrix."
            self._reject(shape, f"factors (*batch, n, {k}) with n ≥ {k}", advice)

    def _turns(self, is_complex: bool) -> int:
        """The dimension of the group of all Q."""
        k = self.rank
        return k * k if is_complex else k * (k - 1) // 2


def _missing(y: Tensor) -> Tensor:
    """What raises the singular values of Y, if it has a lower rank than k; of zeros, [I; 0]."""
    U, s, Vh = decompositions.svd(y)
    largest = s[..., :1]
    least = torch.where(largest > 0, MARGIN / s.shape[-1] ** 0.5 * largest, 1)
    low = s[..., -1:] <= y.shape[-2] * torch.finfo(s.dtype).eps * largest
    return (U * torch.where(low, (least - s).clamp(min=0), 0).unsqueeze(-2)) @ Vh
