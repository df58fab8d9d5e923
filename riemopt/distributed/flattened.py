"""Convolution kernels that are cut: seen as matrices, as the whole ones are."""

from collections.abc import Sequence

from torch import Tensor

from riemopt.distributed.geometry import ShardedGeometry, sharded_geometry
from riemopt.distributed.summands import Summand
from riemopt.manifolds import Flattened


class ShardedFlattened(ShardedGeometry):
    """`Flattened`: the own part is flattened, and the geometry of the base takes it from there."""

    def __init__(self, manifold: Flattened, base: ShardedGeometry, shape: Sequence[int]) -> None:
        super().__init__(manifold, shape)
        self.base = base
        self.event_ndim = manifold.event_ndim
        self.needs_finish = base.needs_finish

    def _flat(self, a: Tensor) -> Tensor:
        return a.flatten(1 - self.event_ndim) if self.event_ndim > 2 else a

    def gradient_summand(self, x: Tensor, g: Tensor) -> Summand:
        """The base's."""
        return self.base.gradient_summand(self._flat(x), self._flat(g))

    def gradient(self, x: Tensor, g: Tensor, XG: Tensor) -> Tensor:
        """The base's."""
        return self.base.gradient(self._flat(x), self._flat(g), XG).view_as(x)

    def squared_summand(self, x: Tensor, grad: Tensor, XG: Tensor) -> Tensor:
        """The base's."""
        share = self.base.squared_summand(self._flat(x), self._flat(grad), XG)
        return share.reshape(*x.shape[: x.ndim - self.event_ndim], *[1] * self.event_ndim)

    def projection_summand(self, x: Tensor, v: Tensor) -> Summand:
        """The base's."""
        return self.base.projection_summand(self._flat(x), self._flat(v))

    def project(self, x: Tensor, v: Tensor, XV: Tensor) -> Tensor:
        """The base's."""
        return self.base.project(self._flat(x), self._flat(v), XV).view_as(x)

    def curve_summands(self, x: Tensor, u: Tensor) -> tuple[Summand, Summand, Summand]:
        """The base's."""
        return self.base.curve_summands(self._flat(x), self._flat(u))

    def curve(
        self, x: Tensor, u: Tensor, t: float | Tensor, XX: Tensor, XU: Tensor, UU: Tensor
    ) -> Tensor:
        """The base's."""
        if isinstance(t, Tensor) and t.ndim == x.ndim:
            t = self._flat(t)
        return self.base.curve(self._flat(x), self._flat(u), t, XX, XU, UU).view_as(x)

    def finish_summand(self, y: Tensor) -> Summand:
        """The base's."""
        return self.base.finish_summand(self._flat(y))

    def finish(self, y: Tensor, YY: Tensor) -> Tensor:
        """The base's."""
        return self.base.finish(self._flat(y), YY).view_as(y)


@sharded_geometry.register
def _(manifold: Flattened, cut: frozenset[int], shape: Sequence[int]) -> ShardedGeometry:
    sides = frozenset(-2 if d == -manifold.event_ndim else -1 for d in cut)
    base = sharded_geometry(manifold.base, sides, manifold._flat_shape(shape))
    return ShardedFlattened(manifold, base, shape)
