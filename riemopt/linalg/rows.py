"""The rows of a tensor that a sparse one has, such as the gradient of an embedding.

A hybrid sparse tensor `(*sparse, *dense)` has indices along its first dimensions and values
`(nnz, *dense)`. Nothing here makes a tensor of the whole size. That rows are found once, where
several sparse tensors or equal indices have them, needs their number, which an accelerator must
say: torch waits for it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from riemopt.linalg.products import HALF


@dataclass(frozen=True)
class Rows:
    """Distinct rows of tensors of `shape`."""

    indices: Tensor
    """`(sparse dimensions, nnz)`."""
    shape: torch.Size

    def of(self, whole: Tensor) -> Tensor:
        """A copy `(nnz, *dense)` of the rows of `whole`."""
        return whole[tuple(self.indices)]

    def write_(self, whole: Tensor, values: Tensor) -> None:
        """Write the rows of `whole`, rounded to its dtype. No other entry is touched."""
        whole.index_put_(tuple(self.indices), values.to(whole.dtype))

    def sparse(self, values: Tensor) -> Tensor:
        """The sparse tensor that has these rows, with `values`."""
        return coalesced(self.indices, values, self.shape)


def coalesced(indices: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """A sparse tensor whose indices are distinct and sorted."""
    return torch.sparse_coo_tensor(
        indices, values, torch.Size(shape), is_coalesced=True, check_invariants=False
    )


def rows_of(*tensors: Tensor, without: Sequence[int] = ()) -> tuple[Rows, list[Tensor]]:
    """The rows that any of some sparse tensors has, and the values of each tensor there.

    Equal indices are added up, in float32 for half precision.

    Args:
        tensors: of one shape and number of sparse dimensions.
        without: numbers of rows to leave out, along the last sparse dimension.
    """
    rows, values = _all_rows_of(*tensors)
    if not without:
        return rows, values
    numbers = rows.indices[-1]
    count = rows.shape[len(rows.indices) - 1]
    left_out = torch.tensor([row % count for row in without], device=numbers.device)
    kept = torch.isin(numbers, left_out, invert=True)
    return Rows(rows.indices[:, kept], rows.shape), [value[kept] for value in values]


def _all_rows_of(*tensors: Tensor) -> tuple[Rows, list[Tensor]]:
    first, *others = (a.float() if a.dtype in HALF else a for a in tensors)
    if not others:
        a = first.coalesce()
        return Rows(a.indices(), a.shape), [a.values()]
    # As one tensor with a dimension more, so that all are sorted and added up together.
    count, parts = len(tensors), []
    for i, a in enumerate((first, *others)):
        values = a._values()
        part = values.new_zeros(len(values), count, *values.shape[1:])
        part[:, i] = values
        parts.append(part)
    sparse_dim, shape = first.sparse_dim(), first.shape
    together = torch.sparse_coo_tensor(
        torch.cat([a._indices() for a in (first, *others)], 1),
        torch.cat(parts),
        (*shape[:sparse_dim], count, *shape[sparse_dim:]),
        check_invariants=False,
    ).coalesce()
    return Rows(together.indices(), shape), list(together.values().unbind(1))
