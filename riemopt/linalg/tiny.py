"""Large batches of tiny matrices, entry by entry.

A million 2×2 products take `torch.bmm` longer than their arithmetic does by far: it makes one call
for each matrix. Here a batch is cut into pieces that stay in a processor's cache. In a piece the
entries lie first: n·p rows, each with one entry of all its matrices, so that a product is a few
sums of rows. To the kernels a piece is a `(K, n, p)` tensor like others, whose stride along K is 1:
elementwise operations keep that layout, and `products` multiplies it by `multiply_add`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from riemopt.linalg.backends import is_recorded_outside, reads_are_free

LARGEST = 4
"""Side of a matrix that counts as tiny."""
_MANY = 1 << 12
"""Matrices from which a batch is cut into pieces."""
_ENTRIES = 1 << 16
"""Of a piece, for each thread: below this torch does not use a second one."""


def in_pieces(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator of a kernel `function(x, u, …)` of matrices: large batches of tiny ones in pieces.

    Each matrix of the result has to depend on the same matrix of the arguments alone. Where
    autograd, a transform or a graph records it, and on accelerators, the kernel is called as it is.
    It is given one batch dimension, so that its products need no views of their own.
    """

    @wraps(function)
    def wrapper(x: Tensor, u: Tensor, *numbers: Any) -> Tensor:
        if x.ndim > 3 and x.shape == u.shape:
            own = [_of_piece(t, x, slice(None)) for t in numbers]
            return wrapper(x.flatten(0, -3), u.flatten(0, -3), *own).view(x.shape)
        count = x.shape[:-2].numel()
        fits = count > _MANY and max(x.shape[-2:]) <= LARGEST and x.shape == u.shape
        if not fits or is_recorded_outside(x) or not reads_are_free(x.data, u):
            return function(x, u, *numbers)
        size = _ENTRIES * torch.get_num_threads() // (x.shape[-2] * x.shape[-1])
        result = torch.empty_like(u, memory_format=torch.contiguous_format)
        for start in range(0, count, size):
            piece = slice(start, start + size)
            own = [_of_piece(t, x, piece) for t in numbers]
            result[piece] = function(_entries_first(x[piece]), _entries_first(u[piece]), *own)
        return result

    return wrapper


def _entries_first(a: Tensor) -> Tensor:
    """A copy of `(K, n, p)` with stride 1 along K."""
    return a.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def _of_piece(t: Any, x: Tensor, piece: slice) -> Any:
    """A number for all, or the part of what broadcasts to one number for each matrix."""
    if not isinstance(t, Tensor) or t.numel() == 1:
        return t
    return t.expand(*x.shape[:-2], 1, 1).reshape(-1, 1, 1)[piece]


def has_entries_first(a: Tensor) -> bool:
    """Whether a batch `(K, n, p)` of tiny matrices has stride 1 along K."""
    return a.shape[1] <= LARGEST and a.shape[2] <= LARGEST and a.stride(0) == 1


def multiply_add(c: Tensor | None, a: Tensor, b: Tensor, scale: float = 1) -> Tensor:
    """C + scale·A·B, or A·B without C; `(K, n, p)` with stride 1 along K."""
    A, B = a.permute(1, 2, 0), b.permute(1, 2, 0)
    # Row k of B times column k of A: all their products at once.
    pairs = [(A[:, k].unsqueeze(1), B[k]) for k in range(A.shape[1])]
    (column, row), *rest = pairs
    if c is None:
        total = column * row
    else:
        total = torch.addcmul(c.permute(1, 2, 0), column, row, value=scale)
    for column, row in rest:
        total.addcmul_(column, row, value=scale)
    return total.permute(2, 0, 1)
