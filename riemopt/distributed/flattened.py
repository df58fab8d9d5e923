"""Convolution kernels that are cut: seen as matrices, as the whole ones are."""

from collections.abc import Sequence

from riemopt.distributed.geometry import ShardedGeometry, sharded_geometry
from riemopt.manifolds import Flattened
from riemopt.manifolds.flattened import lifted


class ShardedFlattened(ShardedGeometry):
    """`Flattened`: the local part is flattened, and the geometry of the base takes it from there.

    Sums are those of the base and are handed on as they are.
    """

    def __init__(self, manifold: Flattened, base: ShardedGeometry, shape: Sequence[int]) -> None:
        super().__init__(manifold, shape)
        self.base = base
        self.event_ndim = manifold.event_ndim
        self.needs_finish = base.needs_finish

    gradient_summand = lifted(ShardedGeometry.gradient_summand, "other", tensors=2)
    gradient = lifted(ShardedGeometry.gradient, "point", tensors=2)
    squared_summand = lifted(ShardedGeometry.squared_summand, "number", tensors=2)
    projection_summand = lifted(ShardedGeometry.projection_summand, "other", tensors=2)
    project = lifted(ShardedGeometry.project, "point", tensors=2)
    curve_summands = lifted(ShardedGeometry.curve_summands, "other", "other", "other", tensors=2)
    curve = lifted(ShardedGeometry.curve, "point", tensors=3)
    finish_summand = lifted(ShardedGeometry.finish_summand, "other", tensors=1)
    finish = lifted(ShardedGeometry.finish, "point", tensors=1)


@sharded_geometry.register
def _(manifold: Flattened, cut: frozenset[int], shape: Sequence[int]) -> ShardedGeometry:
    sides = frozenset(-2 if d == -manifold.event_ndim else -1 for d in cut)
    base = sharded_geometry(manifold.base, sides, manifold.flat_shape(shape))
    return ShardedFlattened(manifold, base, shape)
