"""Constrained weights under `fully_shard`: along which dimension to cut them.

fully_shard(model, shard_placement_fn=shard_placement)

A weight that `fully_shard` spreads over processes is stepped by the parts, without gathering it,
if its points can be put together from sums of small matrices. That is so of tall Stiefel matrices
cut by rows (torch's default), of wide ones cut by columns, of spheres however they are cut, and of
any manifold if each process holds whole points, such as the rows of `Sphere()` cut by rows.
"""

from torch import Tensor
from torch.distributed.tensor import Shard

from riemopt.distributed.placement import dimension_to_cut
from riemopt.nn import table

__all__ = ["shard_placement"]


def shard_placement(param: Tensor) -> Shard | None:
    """The dimension along which `fully_shard` may cut a weight; for its `shard_placement_fn`.

    Torch's default, the first dimension, where a step can do with that; otherwise the next one that
    it can do with: `Shard(1)` for wide Stiefel matrices. Torch cuts dimensions other than the
    first into equal parts only.

    Args:
        param: a parameter of a module, before it is sharded.

    Returns:
        None for an unconstrained parameter, which torch cuts as it likes.

    Raises:
        NotImplementedError: the weight must not be cut along any dimension; says what to do.

    Examples:
        >>> import torch, riemopt
        >>> from riemopt.interop.distributed import shard_placement
        >>> from riemopt.manifolds import Stiefel
        >>> tall = riemopt.ManifoldParameter(torch.eye(32, 8), Stiefel())
        >>> wide = riemopt.ManifoldParameter(torch.eye(8, 32), Stiefel())
        >>> shard_placement(tall), shard_placement(wide)
        (Shard(dim=0), Shard(dim=1))
    """
    manifold = table.manifold_of(param)
    if manifold is None or not manifold.is_constraint:
        return None
    return Shard(dimension_to_cut(manifold, param.shape))
