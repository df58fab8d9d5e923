"""Along which dimension a weight may be cut, so that it can be stepped by its parts."""

from collections.abc import Sequence

from riemopt.distributed.geometry import sharded_geometry
from riemopt.manifolds import Manifold


def dimension_to_cut(manifold: Manifold, shape: Sequence[int]) -> int:
    """The first dimension of a weight of `shape` along which a step can do with parts.

    Raises:
        NotImplementedError: there is none; says what to do.
    """
    ndim = len(shape)
    manifold = manifold.with_dims_from_end(ndim)
    points = frozenset(manifold.event_dims(ndim))
    refusal: NotImplementedError | None = None
    for dim in range(ndim):
        cut = frozenset({dim - ndim}) & points
        try:
            if cut:
                sharded_geometry(manifold, cut, shape)
            return dim
        except NotImplementedError as error:
            refusal = refusal or error
    assert refusal is not None
    raise refusal
