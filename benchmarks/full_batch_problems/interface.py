"""A problem with a known minimum, posed in riemopt's layout, and how it is posed to other packages.

    problem = PROBLEMS["rayleigh"]()
    x = problem.start(seed=0)                      # the same for all methods
    problem.gap(x)                                 # (f(x) - f*)/max(1, |f*|)

All is float64. Minima are found by a method that is no descent on a manifold: an eigenvalue
decomposition, an SVD, a dual problem, or by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from riemopt.manifolds import Manifold

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Theirs:
    """The problem in pymanopt's terms. Its cost takes the tensors of one of its points."""

    manifold: Any
    cost: Callable[..., Tensor]
    point: Callable[[Array], Any]
    """A point of ours as one of theirs."""
    back: Callable[[Any], Array] = np.asarray
    """And back."""


@dataclass(frozen=True)
class FullBatch:
    """A cost on a manifold with its minimum.

    `pymanopt` and `geoopt` pose it to those packages, which need not be installed until then;
    `None` where a package lacks the manifold. `defect` is what SciPy penalises: ‖c(x)‖², zero on
    the manifold, or `None` where the manifold is no set of equations that a user would write.
    """

    name: str
    title: str
    manifold: Manifold
    shape: tuple[int, ...]
    cost: Callable[[Tensor], Tensor]
    optimum: float
    pymanopt: Callable[[], Theirs]
    geoopt: Callable[[], Any] | None = None
    defect: Callable[[Tensor], Tensor] | None = None

    def start(self, seed: int) -> Tensor:
        """A random point."""
        gen = Generator().manual_seed(seed)
        return self.manifold.random_point(*self.shape, generator=gen, dtype=torch.float64)

    def gap(self, x: Tensor) -> float:
        """(f(x) - f*)/max(1, |f*|)."""
        return (float(self.cost(x)) - self.optimum) / max(1.0, abs(self.optimum))


def as_columns(manifold: Any, cost: Callable[[Tensor], Tensor]) -> Theirs:
    """For pymanopt's `Oblique`, whose points are unit columns where ours are unit rows."""
    return Theirs(
        manifold,
        lambda X: cost(X.mT),
        lambda x: np.ascontiguousarray(x.T),
        lambda x: np.ascontiguousarray(x.T),
    )


def as_it_is(manifold: Any, cost: Callable[[Tensor], Tensor]) -> Theirs:
    """Where points are the same arrays."""
    return Theirs(manifold, cost, np.asarray)


def off_sphere(x: Tensor) -> Tensor:
    """Σ(‖xᵢ‖² - 1)² over rows."""
    return (x.square().sum(-1) - 1).square().sum()


def off_stiefel(X: Tensor) -> Tensor:
    """‖XᵀX - I‖², of all matrices of a batch."""
    return (X.mT @ X - torch.eye(X.shape[-1], dtype=X.dtype)).square().sum()
