"""Manifolds on which a step may be shortened, so that its curve comes with the part taken."""

from abc import abstractmethod

from torch import Tensor
from typing_extensions import override

from riemopt.manifolds.base import Manifold


class ShortenedSteps(Manifold):
    """A manifold that supplies `curve_with_fraction`; its retraction is the curve at t = 1."""

    @override
    @abstractmethod
    def curve_with_fraction(
        self, x: Tensor, u: Tensor, t: float | Tensor
    ) -> tuple[Tensor, Tensor | None]: ...

    @override
    def curve(self, x: Tensor, u: Tensor, t: float | Tensor) -> Tensor:
        return self.curve_with_fraction(x, u, t)[0]

    @override
    def retract(self, x: Tensor, u: Tensor) -> Tensor:
        return self.curve_with_fraction(x, u, 1.0)[0]
