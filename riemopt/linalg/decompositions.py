"""Singular values and eigenvalues that are found also where LAPACK gives up at the first try.

The iteration of an SVD fails now and then to converge: of nearly orthonormal 128×128 matrices, one
in two thousand, in float32 and in float64 alike. The same matrix seen in other coordinates does not
fail: A is multiplied by a Householder reflection P, and the factors are taken back by it. Nothing
is spent on this where the first try succeeds.

For projections and starting points, never for a step: these synchronise on an accelerator. What
they give has no derivative; that of the polar factor is in `polar_derivative`.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from riemopt.linalg.backends import is_traced

_Factors = TypeVar("_Factors")

_NotConverged = torch.linalg.LinAlgError  # type: ignore[attr-defined]
_TRIES = 3
"""Reflections that are tried."""


def svd(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`(U, s, Vᴴ)` with A = U·diag(s)·Vᴴ, the reduced SVD of `(*, n, p)` matrices.

    Raises:
        torch.linalg.LinAlgError: an entry is not finite.
    """

    def reflected(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        U, s, Vh = torch.linalg.svd(_reflect(a, v), full_matrices=False)
        return U, s, _reflect(Vh, v)

    def plain() -> tuple[Tensor, Tensor, Tensor]:
        U, s, Vh = torch.linalg.svd(a, full_matrices=False)
        return U, s, Vh

    return _first_that_converges(plain, reflected, a)


def eigh(h: Tensor) -> tuple[Tensor, Tensor]:
    """`(λ, V)` with H = V·diag(λ)·Vᴴ of Hermitian `(*, n, n)` matrices; λ ascends.

    Raises:
        torch.linalg.LinAlgError: an entry is not finite.
    """

    def reflected(v: Tensor) -> tuple[Tensor, Tensor]:
        eigenvalues, V = torch.linalg.eigh(_reflect(_reflect(h, v).mH, v))  # P·H·P
        return eigenvalues, _reflect(V.mH, v).mH

    def plain() -> tuple[Tensor, Tensor]:
        eigenvalues, V = torch.linalg.eigh(h)
        return eigenvalues, V

    return _first_that_converges(plain, reflected, h)


def _first_that_converges(
    plain: Callable[[], _Factors], reflected: Callable[[Tensor], _Factors], a: Tensor
) -> _Factors:
    if is_traced():  # an error is raised when the graph runs, where it cannot be caught
        return plain()
    try:
        return plain()
    except _NotConverged as error:
        failure = error
    if bool(a.isfinite().all()):
        for v in _normals(a):
            try:
                return reflected(v)
            except _NotConverged:
                continue
    raise failure


def _normals(a: Tensor) -> Iterator[Tensor]:
    """Unit vectors `(n,)` of no special direction, n the last side of `a`."""
    numbers = torch.arange(1, a.shape[-1] + 1, device=a.device, dtype=a.real.dtype)
    for k in range(1, _TRIES + 1):
        v = (k * numbers.square()).sin()
        yield (v / torch.linalg.vector_norm(v)).to(a.dtype)


def _reflect(a: Tensor, v: Tensor) -> Tensor:
    """A·P with the reflection P = I - 2vvᵀ of a real unit vector v."""
    return a - 2 * (a @ v).unsqueeze(-1) * v
