"""Lanczos's method for the Hessian in a tangent space, of all problems of a batch together."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from riemopt.solvers.points import Mask, Numbers, Points, host, times, where
from riemopt.solvers.problem import Hessian


@dataclass
class Krylov:
    """The Krylov space of H and v: an orthonormal basis Q, and H in it.

        space = Krylov.of(points, x, v)
        while …: space.grow(hessian)
        space.tridiagonal()                       # QᵀHQ, (*batch, k, k)
        space.combine(coefficients)               # Q·c

    The basis is orthogonalised in full against all earlier vectors, twice. Where the space is
    invariant, further vectors are 0, and so are rows of QᵀHQ.
    """

    points: Points
    x: Tensor
    basis: list[Tensor]
    diagonal: list[Numbers]
    off: list[Numbers]
    length: Numbers
    """‖v‖."""

    @classmethod
    def of(cls, points: Points, x: Tensor, v: Tensor) -> "Krylov":
        """The one that has v alone; of dimension 0 until it grows."""
        (square,) = host(points.inner(x, v, v))
        length = np.sqrt(np.maximum(square, 0))
        first = times(1 / np.where(length > 0, length, 1), v)
        return cls(points, x, [first], [], [], length)

    def grow(self, hessian: Hessian) -> None:
        """One dimension more, for one product with the Hessian."""
        q = self.basis[-1]
        w = hessian(q)
        (a,) = host(self.points.inner(self.x, q, w))
        Q = torch.stack(self.basis)
        lowered = self.points.lower(self.x, Q)
        for _ in range(2):
            w = w - ((lowered * w).sum(-1, keepdim=True) * Q).sum(0)
        # Of a short vector rounding has left a normal part, which the Hessian may enlarge.
        w = self.points.proj_tangent(self.x, w)
        (square,) = host(self.points.inner(self.x, w, w))
        b = np.sqrt(np.maximum(square, 0))
        scale = np.max(np.abs([*self.diagonal, a, *self.off]), axis=0)
        # What is left of an invariant space is rounding, and no direction.
        b = np.where(b > 1e3 * self.points.eps * scale, b, 0.0)
        w = where(np.asarray(b > 0), times(1 / np.where(b > 0, b, 1), w), torch.zeros_like(w))
        self.basis.append(w)
        self.diagonal.append(a)
        self.off.append(b)

    @property
    def is_invariant(self) -> Mask:
        """Where nothing is left to grow."""
        return np.asarray(self.off[-1] == 0) if self.off else np.asarray(self.length == 0)

    def tridiagonal(self) -> Numbers:
        """QᵀHQ, `(*batch, k, k)`."""
        k = len(self.diagonal)
        T = np.zeros((*self.length.shape, k, k))
        for i in range(k):
            T[..., i, i] = self.diagonal[i]
            if i:
                T[..., i, i - 1] = T[..., i - 1, i] = self.off[i - 1]
        return T

    def combine(self, coefficients: Numbers) -> Tensor:
        """Q·c for `(*batch, k)`."""
        k = coefficients.shape[-1]
        terms = (times(coefficients[..., i], self.basis[i]) for i in range(k))
        return sum(terms, torch.zeros_like(self.basis[0]))
