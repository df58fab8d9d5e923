"""Sums over long points, in single precision: the error does not grow with the length.

Torch adds up a norm or a product of matrices in a few running sums, each of which loses what is
small beside it: of 16 million entries the norm is off by 7e-4. Here a sum of more than `LONG` terms
is taken in blocks, and the sums of the blocks are added: as fast, and to about 1e-7. Shorter ones
are left to torch.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from riemopt.linalg.backends import is_recorded_outside

LONG = 1 << 13
"""Terms from which a sum is taken in blocks."""
_BLOCK = 1 << 10


def is_long(shape: Sequence[int], dims: Sequence[int]) -> bool:
    """Whether a sum over `dims` of a tensor of `shape` has more than `LONG` terms."""
    return math.prod([shape[d] for d in dims]) > LONG


def total(a: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
    """Σ a over `dims`, all negative.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import total
        >>> total(torch.ones(3, 4), (-2, -1))
        tensor(12.)
    """
    if a.numel() <= LONG or not is_long(a.shape, dims):
        return a.sum(tuple(dims), keepdim=keepdim)
    return _by_blocks(a, dims, keepdim, lambda part: part.sum(-1))


def norm(a: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
    """‖a‖ over `dims`, all negative.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import norm
        >>> norm(torch.tensor([[3.0, 4.0]]), (-1,))
        tensor([5.])
    """
    if a.numel() <= LONG or not is_long(a.shape, dims):
        return torch.linalg.vector_norm(a, dim=tuple(dims), keepdim=keepdim)
    if is_recorded_outside(a):  # the norm of a block has no derivative where the block is zero
        squares = (a.conj() * a).real if a.is_complex() else a * a
        return total(squares, dims, keepdim=keepdim).sqrt()
    return _by_blocks(a, dims, keepdim, lambda part: torch.linalg.vector_norm(part, dim=-1))


def long_product(a: Tensor, b: Tensor) -> Tensor:
    """A·B of `(*, m, n)` and `(*, n, k)` with large n and m, k that are small beside a block."""
    n = a.shape[-1]
    whole = n - n % _BLOCK
    A = a[..., :whole].unflatten(-1, (-1, _BLOCK)).movedim(-2, -3)
    B = b[..., :whole, :].unflatten(-2, (-1, _BLOCK))
    blocks = A @ B
    if whole < n:
        rest = a[..., whole:] @ b[..., whole:, :]
        blocks = torch.cat([blocks, rest.unsqueeze(-3)], -3)
    return blocks.sum(-3)


def rows_times(vectors: Tensor, q: Tensor) -> Tensor:
    """Q·v of `(*, n)` vectors v and `(r, n)` Q: `(*, r)`.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import rows_times
        >>> rows_times(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
        tensor([[3., 2.]])
    """
    if q.shape[-1] <= LONG:
        return vectors @ q.mT
    return long_product(vectors.unsqueeze(-2), q.mT).squeeze(-2)


def in_double(x: Tensor, dims: Sequence[int]) -> Tensor:
    """A long `x` in double precision, where the device has it; for measuring, not for a step.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import in_double
        >>> in_double(torch.ones(100_000), (-1,)).dtype
        torch.float64
    """
    if not is_long(x.shape, dims) or x.device.type == "mps":
        return x
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def shift(a: Tensor, c: Tensor, dims: Sequence[int]) -> Tensor:
    """A - C, with errors of rounding that do not add up along `dims`.

    Numbers of one size have one grid, and if the same c is taken from each, all are rounded to the
    same side: the sum of a million is off by 1e-2. So each is rounded up or down as if a number
    between -½ and ½ were added in units of its last digit, and these numbers, multiples of the
    golden ratio, are spread evenly.

    Examples:
        >>> import torch
        >>> from riemopt.linalg import shift
        >>> a, c = torch.full((1_000_000,), 0.75), torch.tensor(1e-8)  # too small for the grid of a
        >>> bool((a - c == a).all())
        True
        >>> moved = (a.double() - shift(a, c, (-1,)).double()).sum()
        >>> abs(moved.item() - 1e-2) < 1e-4
        True
    """
    if not is_long(a.shape, dims):
        return a - c
    plain = a - c
    with torch.no_grad():
        parts = torch.view_as_real(a) if a.is_complex() else a
        size = (torch.view_as_real(plain) if a.is_complex() else plain).abs()
        # A little over half of the last digit, which is rounded to one of it.
        unit = torch.add(size, size, alpha=0.5001 * torch.finfo(size.dtype).eps) - size
        shape = [a.shape[d % a.ndim - a.ndim] if d - a.ndim in dims else 1 for d in range(a.ndim)]
        spread = _spread(math.prod(shape), parts).view(*shape, *[1] * (parts.ndim - a.ndim))
        taken = torch.view_as_real(c) if c.is_complex() else c
        rounded = parts - (taken + unit * spread)
        rounded = torch.view_as_complex(rounded) if a.is_complex() else rounded
    if not is_recorded_outside(a):
        return rounded
    return plain + (rounded - plain).detach()  # the derivative is that of A - C; the sum is exact


def _spread(n: int, like: Tensor) -> Tensor:
    """N numbers in (-½, ½), evenly spread in each stretch: k·φ mod 1, in steps of 2⁻¹⁶."""
    k = torch.arange(min(n, 1 << 16), device=like.device)
    period = ((k * 40503) % (1 << 16)).to(like.dtype) / (1 << 16) - 0.5
    return period.repeat(-(-n >> 16))[:n]


def _by_blocks(
    a: Tensor, dims: Sequence[int], keepdim: bool, reduce: Callable[[Tensor], Tensor]
) -> Tensor:
    """`reduce` over the last dimension of blocks, then over that of the results, and so on."""
    kept = [1 if d - a.ndim in dims else a.shape[d] for d in range(a.ndim)]
    if list(dims) != list(range(-len(dims), 0)):
        a = a.movedim(tuple(dims), tuple(range(-len(dims), 0)))
    batch = a.shape[: a.ndim - len(dims)]
    flat, n = a, math.prod(a.shape[a.ndim - len(dims) :])
    while n > _BLOCK:
        rest = n % _BLOCK
        if rest:
            flat = flat.reshape(*batch, n)
            tail = reduce(flat[..., n - rest :]).unsqueeze(-1)
            flat = flat[..., : n - rest]
        flat = reduce(flat.reshape(*batch, n // _BLOCK, _BLOCK))
        if rest:
            flat = torch.cat([flat, tail], -1)
        n = flat.shape[-1]
    return reduce(flat).view(kept if keepdim else batch)
