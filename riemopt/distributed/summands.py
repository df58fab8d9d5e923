"""What a process adds to a sum over processes, and the numbers that stand for it on the way."""

from typing import NamedTuple

import torch
from torch import Tensor


class Hermitian(NamedTuple):
    """Hermitian matrices `(*, p, p)`, of which the upper triangles are sent."""

    matrix: Tensor


Summand = Tensor | Hermitian


def numbers(summand: Summand) -> Tensor:
    """The real numbers that stand for a summand."""
    if isinstance(summand, Hermitian):
        rows, columns = _upper_triangle(summand.matrix)
        summand = summand.matrix[..., rows, columns]
    return torch.view_as_real(summand.resolve_conj()) if summand.is_complex() else summand


def restored(sums: Tensor, summand: Summand) -> Tensor:
    """The tensor for which sums of such numbers stand; like the local summand."""
    like = summand.matrix if isinstance(summand, Hermitian) else summand
    if like.is_complex():
        sums = torch.complex(*sums.unbind(-1))
    if not isinstance(summand, Hermitian):
        return sums
    rows, columns = _upper_triangle(like)
    whole = torch.empty_like(like, memory_format=torch.contiguous_format)
    whole[..., columns, rows] = sums.conj()
    whole[..., rows, columns] = sums
    return whole


def _upper_triangle(matrix: Tensor) -> Tensor:
    p = matrix.shape[-1]
    return torch.triu_indices(p, p, device=matrix.device)
