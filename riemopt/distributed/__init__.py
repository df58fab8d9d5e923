"""Points of which each process holds a part: what a step needs, as local maps and small sums.

    parts = sharded_geometry(Stiefel(), frozenset({-2}), (4096, 64))  # cut by rows
    XG = total(parts.gradient_summand(x, g))                    # sym(XᴴG): all parts', p×p
    grad = parts.gradient(x, g, XG)                           # the local rows of grad

The geometry is in `geometry` (the contract), `stiefel`, `sphere` and `flattened`, and knows nothing
of processes. The optimizers say when something is summed.
"""

from riemopt.distributed.flattened import ShardedFlattened
from riemopt.distributed.geometry import ShardedGeometry, sharded_geometry
from riemopt.distributed.sphere import ShardedSphere
from riemopt.distributed.stiefel import ShardedStiefel
from riemopt.distributed.summands import Hermitian, Summand

__all__ = [
    "Hermitian",
    "ShardedFlattened",
    "ShardedGeometry",
    "ShardedSphere",
    "ShardedStiefel",
    "Summand",
    "sharded_geometry",
]
