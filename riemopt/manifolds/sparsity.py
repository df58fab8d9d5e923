"""Tensors with zeros in fixed places."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from riemopt.manifolds.constant import Constant
from riemopt.manifolds.linear import LinearSubspace


@final
@dataclass(frozen=True, init=False, repr=False)
class Sparsity(LinearSubspace):
    """{x : xᵢ = 0 where the mask is False}, `(*batch, *mask.shape)`.

        Sparsity(torch.ones(4, 4).tril() > 0)        # lower triangular
        Sparsity(model.fc.weight.abs() > 1e-2)       # as pruned now

    Args:
        mask: boolean, of the shape of one point: True where entries are free. Values are copied.

    Two are equal where their masks are.

    Dimension: mask.sum().

    Metric: the ambient one; a linear subspace, in which Adam is elementwise, as torch's.

    Step: x + u. The zeros are exact after it, and an infinity or a NaN in the gradient of one does
    not count.

    Cost: a pass over the entries.

    For: causal and triangular weights, pruned layers in training, adjacency of a graph.

    Not for: saving time or memory: the tensors are dense.

    Raises:
        TypeError: the mask is not a boolean tensor.
        ValueError: the mask frees no entry, or has no dimension.

    Examples:
        >>> import torch
        >>> from riemopt.manifolds import Sparsity
        >>> causal = Sparsity(torch.ones(3, 3).tril() > 0)
        >>> causal.project(torch.ones(3, 3))
        tensor([[1., 0., 0.],
                [1., 1., 0.],
                [1., 1., 1.]])
    """

    dims_are_explicit = True

    mask: Constant

    def __init__(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"Sparsity needs a boolean tensor, such as w != 0; got {got}.")
        kept = Constant(mask)
        if not kept.shape or not kept.array.any():
            raise ValueError(
                "Sparsity needs a mask with one dimension or more and an entry that is True; got "
                f"shape {kept.shape} with {int(kept.array.sum())} True."
            )
        object.__setattr__(self, "mask", kept)

    def __repr__(self) -> str:
        free, size = int(self.mask.array.sum()), self.mask.array.size
        return f"Sparsity(<{free} of {size} entries free, mask {repr(self.mask)[1:]})"

    @property
    @override
    def event_ndim(self) -> int:
        return len(self.mask.shape)

    @override
    def prepare(self, x: Tensor) -> None:
        self.mask.on(x)

    def proj_tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """Entries of u where the mask is True, else 0."""
        return torch.where(self.mask.on(u), u, 0)

    @override
    def check_shape(self, shape: Sequence[int]) -> None:
        if tuple(shape[max(len(shape) - self.event_ndim, 0) :]) != self.mask.shape:
            self._reject(shape, f"tensors (*batch, {', '.join(map(str, self.mask.shape))})")

    def dim(self, shape: Sequence[int], *, is_complex: bool = False) -> int:
        """How many entries are free (twice that if complex)."""
        return int(self.mask.array.sum()) * (2 if is_complex else 1)
